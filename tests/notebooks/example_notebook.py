# %% [markdown]
# # Estimate a mean
#
# **Question.** How far is the mean of a few draws from the truth?
#
# **What you need.** Nothing.
# %% parameters
cohort: str = "toy"  # name of the data in runs/
run: str = "smoke"  # label of this run
draws: int = 50  # numbers drawn, 1 or more
seed: int = 0
# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from pkd_utils.runs.run import open_notebook

P, run = open_notebook("background/02-estimate-a-mean", globals())
# %% [markdown]
# ## Draw
#
# The mean of $n$ draws of variance 1 lies within $1.96 / \sqrt{n}$ of the truth, 19 times in 20.
# %%
values = np.random.default_rng(P.seed).standard_normal(P.draws)
table = pd.DataFrame({"draw": np.arange(P.draws), "value": values})
print(f"mean {values.mean():.2f}, expected within {1.96 / P.draws**0.5:.2f} of 0")
# %%
figure, ax = plt.subplots(figsize=(4, 2))
ax.hist(values, bins=15)
ax.set(xlabel="value", ylabel="draws")
run.show(figure)
# %% [markdown]
# ## Limits and next
#
# The draws are independent; cases of one patient are not.
# %%
run.save({"draws.csv": table})
