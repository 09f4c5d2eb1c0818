"""The synthetic experiments are drawn as stated, all repetitions fit together as each would alone, and the known
answers come out."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from pkd_utils.runs.errors import DataError
from pkd_utils.studies import synthetic

ALPHA = np.random.default_rng(5).standard_normal(12)


def drawn(experiment, n=4000, seed=0):
    return synthetic.draw(experiment, ALPHA, n, np.random.default_rng(seed))


@pytest.mark.parametrize("experiment", synthetic.EXPERIMENTS)
def test_shapes_types_and_repeatability(experiment):
    x, x_star, y = drawn(experiment, 50)
    width = {"1 clean labels": 1, "2 clean features": 12}.get(experiment, 3)
    assert (x.shape, x_star.shape, y.shape) == ((50, 12), (50, width), (50,))
    assert (x.dtype, x_star.dtype, y.dtype) == (np.float32, np.float32, bool)
    for first, second in zip((x, x_star, y), drawn(experiment, 50), strict=True):
        np.testing.assert_array_equal(first, second)


def test_three_experiments_are_drawn_as_stated():
    alpha = ALPHA.astype(np.float32)
    x, x_star, y = drawn("1 clean labels")
    np.testing.assert_allclose(x_star[:, 0], x @ alpha, rtol=1e-4, atol=1e-4)
    flipped = np.arctan(1 / np.linalg.norm(ALPHA)) / np.pi  # P(sign(s + e) differs from sign(s))
    assert np.mean(y != (x_star[:, 0] > 0)) == pytest.approx(flipped, abs=0.015)
    x, x_star, y = drawn("2 clean features")
    assert (x - x_star).std() == pytest.approx(1, abs=0.02)
    assert abs(np.corrcoef((x - x_star)[:, 0], x_star[:, 0])[0, 1]) < 0.05
    np.testing.assert_array_equal(y, x_star @ alpha > 0)
    x, x_star, y = drawn("3 relevant features")
    np.testing.assert_array_equal(x_star, x[:, :3])
    np.testing.assert_array_equal(y, x_star @ alpha[:3] > 0)


def test_three_readings_of_the_fourth_experiment():
    x, x_star, y = drawn("4 columns by sample", 500)
    columns = np.argmax(x[:, None, :] == x_star[:, :, None], axis=2)
    np.testing.assert_array_equal(np.take_along_axis(x, columns, 1), x_star)
    assert all(len(set(row)) == 3 for row in columns) and len({tuple(sorted(row)) for row in columns}) > 100
    np.testing.assert_array_equal(y, (x_star * ALPHA[columns]).sum(1) > 0)
    chosen = set()
    for seed in range(4):
        x, x_star, y = drawn("4 columns by data set", 401, seed)
        chosen.add(tuple(int(np.flatnonzero((x == column[:, None]).all(0))[0]) for column in x_star.T))
        assert y.sum() == 200  # above the median of 401 scores
    assert len(chosen) > 1
    x, x_star, y = drawn("4 three largest", 401)
    np.testing.assert_array_equal(x_star, -np.sort(-x, axis=1)[:, :3])
    assert y.sum() == 200


@pytest.mark.parametrize("change", [{"repetitions": 0}, {"n_train": 1}, {"dimension": 2}, {"steps": 0}])
def test_what_cannot_be_drawn_or_fitted_is_refused(change):
    (name,) = change
    with pytest.raises(DataError, match=f"^compare: {name} = {change[name]}: "):
        synthetic.compare("3 relevant features", **change)


def test_training_sets_are_standardised_and_do_not_depend_on_how_many_there_are():
    three = synthetic.training_sets("2 clean features", 3, 40, 6, seed=7)
    one = synthetic.training_sets("2 clean features", 1, 40, 6, seed=7)
    torch.testing.assert_close(three.x[:1], one.x)
    torch.testing.assert_close(three.x.mean(1), torch.zeros(3, 6), atol=1e-5, rtol=0)
    torch.testing.assert_close(three.x_star.std(1, unbiased=False), torch.ones(3, 6))
    other = synthetic.training_sets("2 clean features", 1, 40, 6, seed=8)
    assert not torch.equal(one.x, other.x)


def test_fit_reaches_the_maximum_likelihood_of_scikit_learn_in_every_repetition():
    train = synthetic.training_sets("1 clean labels", 3, 300, 4, seed=1)
    fit = synthetic.fit_logistic(train.x, train.y, steps=3000, learning_rate=2.0, tolerance=1e-6)
    assert fit.steps < 3000 and float(fit.gradient.max()) < 1e-6
    for r in range(3):
        reference = LogisticRegression(C=1e10, tol=1e-8, max_iter=5000).fit(train.x[r].numpy(), train.y[r].numpy())
        np.testing.assert_allclose(fit.coefficients[r], reference.coef_[0], atol=0.01)
        np.testing.assert_allclose(fit.intercept[r], reference.intercept_[0], atol=0.01)
    one = synthetic.fit_logistic(train.x[:1], train.y[:1], steps=fit.steps, learning_rate=2.0, tolerance=0)
    torch.testing.assert_close(one.coefficients[0], fit.coefficients[0], atol=1e-4, rtol=1e-4)


def test_gradient_descent_takes_the_textbook_step():
    train = synthetic.training_sets("1 clean labels", 2, 30, 3)
    fit = synthetic.fit_logistic(train.x, train.y, steps=1, learning_rate=0.5)
    gradient = torch.einsum("rn,rnd->rd", 0.5 - train.y, train.x) / 30
    torch.testing.assert_close(fit.coefficients, -0.5 * gradient)
    torch.testing.assert_close(fit.intercept, -0.5 * (0.5 - train.y).mean(1))


def test_full_imitation_ignores_the_labels_and_none_ignores_the_teacher():
    train = synthetic.training_sets("1 clean labels", 2, 40, 5)
    soft = torch.rand(2, 40)

    def fit(targets, *teacher):
        return synthetic.fit_logistic(train.x, targets, *teacher, steps=50).coefficients

    imitated, plain = fit(train.y, soft, 1.0), fit(train.y)
    torch.testing.assert_close(imitated, fit(1 - train.y, soft, 1.0))
    torch.testing.assert_close(plain, fit(train.y, soft, 0.0))
    assert not torch.allclose(plain, imitated, atol=0.01)


def test_compare_gives_the_published_order_where_privileged_information_helps():
    rows = synthetic.compare("3 relevant features", repetitions=6, n_test=2000, settings=[(1.0, 1.0), (0.0, 1.0)])
    assert len(rows) == 6 * 4
    assert list(rows.columns) == [
        "experiment", "repetition", "n_train", "classifier", "weight", "temperature", "accuracy", "gradient",
    ]  # fmt: skip
    mean = rows.groupby(["classifier", rows["weight"].fillna(-1)])["accuracy"].mean()
    assert mean["privileged", -1] > 0.97
    assert mean["distilled", 1.0] == pytest.approx(0.97, abs=0.02)
    assert mean["regular", -1] == pytest.approx(0.89, abs=0.02)
    assert mean["distilled", 0.0] == mean["regular", -1]  # lambda = 0 is the regular classifier


def test_test_sets_do_not_depend_on_training_size_or_number_of_repetitions():
    options = {"n_test": 500, "steps": 30}
    few = synthetic.compare("1 clean labels", repetitions=2, n_train=50, **options)
    many = synthetic.compare("1 clean labels", repetitions=4, n_train=50, **options)
    pd.testing.assert_series_equal(few["accuracy"], many.loc[many["repetition"] < 2, "accuracy"])


def test_summary_gives_the_t_interval():
    rows = pd.DataFrame({"classifier": ["a"] * 4, "accuracy": [0.5, 0.6, 0.7, 0.8]})
    (row,) = synthetic.summarise(rows, ["classifier"]).itertuples()
    assert (row.repetitions, row.mean) == (4, pytest.approx(0.65))
    assert row.sd == pytest.approx(np.std([0.5, 0.6, 0.7, 0.8], ddof=1))
    assert row.high - row.mean == pytest.approx(3.182446 * row.sd / 2, rel=1e-5)  # t(0.975, 3 degrees of freedom)
    with pytest.raises(DataError, match="at least 2 repetitions"):
        synthetic.summarise(rows[:1], ["classifier"])
