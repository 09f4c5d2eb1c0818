"""The paper's own numbers beside ours: which of them speak of the same number of training images."""

from collections.abc import Iterable

import numpy as np
import pandas as pd


def at_nearest_size(reported: pd.DataFrame, sizes: Iterable[int]) -> pd.DataFrame:
    """Rows of one task of the paper's Table 2, each with the training size of ours that is nearest to its own.

    Parameters
    ----------
    reported : DataFrame with a column `training_images`
    sizes : training sizes of ours, images

    Returns
    -------
    DataFrame
        The same rows with a column `size`. Nearest is meant by ratio; of two as near, the smaller.
    """
    own, theirs = np.array(sorted(set(sizes))), reported["training_images"].to_numpy()
    return reported.assign(size=own[np.abs(np.log(own / theirs[:, None])).argmin(1)])
