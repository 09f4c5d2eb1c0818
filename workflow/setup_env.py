"""Create `.venv` and install the pinned dependencies into it: `python workflow/setup_env.py book test`.

Runs on the system's Python with nothing but the standard library and pip. uv does the installing (minutes faster
than pip) and is given the same package sources that pip is configured with, because uv does not read pip's
configuration. Each file is compared with its hash in workflow/pins.lock. Does nothing when the environment already
matches pyproject.toml and these pins.
"""

import hashlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"


def fingerprint(extras: list[str]) -> str:
    """Hash of everything that decides what is installed."""
    digest = hashlib.sha256(repr((extras, sys.version_info[:2], str(ROOT))).encode())
    for name in ("pyproject.toml", "workflow/pins.lock"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def pip_sources() -> dict[str, list[str]]:
    """Package sources from pip's own configuration files and environment, by option name."""
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    sources: dict[str, list[str]] = {"index-url": [], "extra-index-url": [], "find-links": []}
    for line in listing.splitlines():
        match = re.match(r"(?:.*\.)?(index-url|extra-index-url|find-links)='(.*)'$", line)
        if match:
            values = match.group(2).replace("\\n", " ").split()
            sources[match.group(1)] += [v for v in values if v not in sources[match.group(1)]]
    return sources


def install(extras: list[str]) -> None:
    """Install the project, editable, with the given extras, at the pinned versions."""
    settings = VENV / "pyvenv.cfg"
    moved = PYTHON.exists() and str(VENV) not in settings.read_text()  # then every script in it names the old place
    if moved or not PYTHON.exists():
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
    uv_pin = re.search(r"^uv==.*$", (ROOT / "constraints.txt").read_text(), re.M).group(0)
    subprocess.run([str(PYTHON), "-m", "pip", "install", "-q", uv_pin], check=True)

    # "unsafe-best-match" is what pip does: the best version over all sources, not the first source that has a name.
    command = [str(PYTHON), "-m", "uv", "pip", "install", "--python", str(PYTHON), "--index-strategy"]
    command += ["unsafe-best-match", "-c", str(ROOT / "workflow" / "pins.lock"), "-e", f"{ROOT}[{','.join(extras)}]"]
    command += ["--reinstall"] * moved
    for option, values in pip_sources().items():
        for value in values:
            command += [f"--{option}", value]
    environment = {**os.environ, "UV_LINK_MODE": os.environ.get("UV_LINK_MODE", "hardlink")}
    cert = os.environ.get("PIP_CERT")
    if cert:
        environment.setdefault("SSL_CERT_FILE", cert)
    answer = subprocess.run(command, env=environment)
    if answer.returncode:
        sys.exit("The installation failed; uv says above which package, and `make env` tries again.")


def write_import_hook(folder: Path) -> None:
    """Let `import timm` work before `import pkd_utils`, see pkd_utils/runs/torchvision_cpu.py.

    The module is copied, because the folder of the project may move and because starting Python must stay cheap.
    """
    hook = {
        "pkd_torchvision_cpu.py": (ROOT / "pkd_utils" / "runs" / "torchvision_cpu.py").read_text(),
        "pkd_torchvision_cpu.pth": "import pkd_torchvision_cpu; pkd_torchvision_cpu.declare_when_needed()\n",
    }
    for name, text in hook.items():
        file = folder / name
        if not file.exists() or file.read_text() != text:
            temporary = folder / f".{name}.tmp"
            temporary.write_text(text)
            os.replace(temporary, file)


def site_packages() -> Path:
    """Where the environment keeps its packages."""
    return next((VENV / "lib").glob("python3*/site-packages"))


def main() -> None:
    if not (3, 11) <= sys.version_info[:2] <= (3, 12):
        have = sys.version.split()[0]
        sys.exit(f"Python 3.11 or 3.12 is needed, this is {have}. Name another one: make PYTHON=python3.11")
    extras = sorted(set(sys.argv[1:]))
    stamp = VENV / ".installed"
    have = stamp.read_text().split() if stamp.exists() else []
    have_extras = have[1].split(",") if len(have) > 1 else []
    if PYTHON.exists() and have and set(extras) <= set(have_extras) and have[0] == fingerprint(have_extras):
        write_import_hook(site_packages())
        return
    start = time.time()
    extras = sorted(set(extras) | set(have_extras))
    install(extras)
    write_import_hook(site_packages())
    temporary = stamp.with_suffix(".tmp")
    temporary.write_text(f"{fingerprint(extras)} {','.join(extras)}\n")
    os.replace(temporary, stamp)
    print(f"Installed into {VENV} in {time.time() - start:.0f} s")


if __name__ == "__main__":
    main()
