# %% [markdown]
# # 4 · Evaluation
#
# **How good is it, and how sure are we?**
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/covidxr/covidxr/blob/main/notebooks/04_evaluation.ipynb)
#
# You will
#
# - open the test split, once,
# - read a confusion matrix, ROC and precision-recall curves with intervals,
# - see whether a probability of 0.9 means nine in ten,
# - choose an operating point and learn what it means at another prevalence,
# - ask who the model serves worse, and when it should hand over to a person.
#
# *Under half a minute on a laptop's processor if notebook 03 has run, else about two minutes.
# A teaching and research tool, not a medical device.*

# %%
# Installs the course's package where it is missing, as on Colab and on Kaggle (Internet on).
import subprocess
import sys
from importlib.util import find_spec

if find_spec("covidxr") is None:
    package = "git+https://github.com/covidxr/covidxr"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", package], check=True)

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from covidxr import calibration, evaluation, plots, runs, splits
from covidxr.training import TrainConfig

plots.use_style()

# %% tags=["parameters"]
dataset = "phantom"
data_dir = None  # folder of the images; None: the data root
weights = "phantom"  # shipped with the package; or imagenet, none, the path of a checkpoint
image_size = 64
epochs = 8
seed = 0

# %% [markdown]
# ## The run we judge
#
# Notebook 03 trained a model with these options. If its folder is not here, it is trained now.

# %%
config = TrainConfig(dataset, data_dir, weights, image_size, epochs, seed=seed)
run = runs.find_or_train(config)
manifest = runs.read_run(run)[1]

# %% [markdown]
# Which films may judge it? Those of the `test` column, if none has a twin in training:

# %% tags=["nbval-check-output"]
print(splits.split_table(manifest).to_string())
print("groups in more than one split:", splits.split_overlap(manifest))

# %% [markdown]
# No group stands on two sides. A *group* is a patient, or a set of near-duplicate films where the
# source names no patient; then follow-ups that look different may still stand on both.
#
# ## Open the test split, once
#
# No step of training has seen these films. Each look at a test score that leads to a change makes
# the next score a little less honest, so we look once and report what comes.

# %%
result = evaluation.evaluate(run)
table = runs.read_csv(run / "predictions_test.csv")
truth, probabilities, classes = evaluation.arrays(table)

# %% tags=["nbval-check-output"]
print("columns:", ", ".join(table.columns))
print("rows:", len(table), table["label"].value_counts().reindex(classes).to_dict())
print("probabilities sum to one:", bool((abs(probabilities.sum(axis=1) - 1) < 1e-6).all()))

# %% [markdown]
# One row per test film, with a probability (`p_`) for each class; the largest is the prediction.
#
# ## Which class is taken for which?

# %% tags=["slide"]
predicted = probabilities.argmax(axis=1)
title = f"{(predicted == truth).mean():.0%} of the films are classified right"
ax = plots.confusion_matrix(truth, predicted, classes, title=title)
plots.mark_synthetic(ax, dataset)

# %% [markdown]
# Read a row at a time: of the films of this class, how many went where? The darkest
# cell off the diagonal is the confusion to look at first. Errors differ in cost: a COVID film
# called normal can send an infectious patient home, a normal one called COVID costs a test.
#
# ## Every figure with its interval
#
# - *Sensitivity* and *specificity*: share of a class's films that are found; share of all others
#   that are left alone.
# - *PPV* and *NPV* (predictive values): share of the alarms that are right; share of the other
#   answers that are.
# - *AUROC*: how often a random film of the class scores higher than a random other one.
#   *Average precision* is the mean PPV over all sensitivities.
# - *Balanced accuracy* and *macro-F1*: means over the classes, so that a rare one counts as much.
#
# With another draw of test patients each figure would come out a little different. The *bootstrap*
# imitates this: draw patients with replacement 2,000 times, compute the figure each time, and keep
# the middle 95%. Patients (else groups) are drawn, not films, since films of one patient are not
# independent.

# %% tags=["slide"]
scores = pd.DataFrame(result["metrics"])
ax = plots.forest(scores, title="Test split, bootstrap over patients or groups")
plots.mark_synthetic(ax, dataset)

# %% [markdown]
# Stars are figures over all classes, other marks belong to one class; n is what a figure divides by
# (for AUROC and average precision: the films of the class). An interval is wide where n is small,
# and where the figure is far from 0 or 1. An accuracy alone hides the class with the lowest
# sensitivity.
#
# Two checks before quoting any, then the figures over all classes:

# %% tags=["nbval-check-output"]
print(len(scores), "figures, with an interval:", int(scores["low"].notna().sum()))
known = scores.dropna(subset=["low"])
inside = known["value"].between(known["low"], known["high"])
print("each value lies in its interval:", bool(inside.all()))

# %%
overall = scores[scores["class"].isna()].set_index("metric")[["value", "low", "high", "n"]]
overall.round(3)

# %% [markdown]
# Quote a figure with its interval and n. If it is above 99%, look for a leak first.
#
# ## ROC and precision-recall
#
# Both curves walk through all thresholds. The ROC shows sensitivity against the share of false
# alarms, and does not depend on how common a class is. Precision (PPV) against recall (sensitivity)
# does, and is the sterner of the two for rare classes.

# %% tags=["slide"]
fig, axes = plt.subplots(1, 2, figsize=(11, 4.6))
plots.roc_curves(truth, probabilities, classes, scores, ax=axes[0])
plots.precision_recall_curves(truth, probabilities, classes, scores, ax=axes[1])
plots.mark_synthetic(fig, dataset)

# %% [markdown]
# An AUROC of 0.5 is chance; the dotted lines on the right are guessing, the class's share. Where
# the intervals of two classes overlap widely, do not call one easier.
#
# ## Does a probability of 0.9 mean nine in ten?
#
# Networks tend to be too sure, or, when trained with smoothed labels, not sure enough. One number,
# the *temperature*, fitted on validation, divides all scores (logits) before the softmax turns them
# into probabilities (Guo et al., 2017). It never changes which class of a film comes first, only
# how far the probability can be taken at its word.

# %% tags=["slide"]
before = evaluation.uncalibrated(probabilities, result["temperature"])
ax = plots.reliability_diagram(truth, before, 10, "before temperature scaling")
plots.reliability_diagram(truth, probabilities, 10, "after", ax=ax)
plots.mark_synthetic(ax, dataset)

# %% [markdown]
# On the diagonal, stated confidence and observed accuracy agree; above it the model is not sure
# enough, below it too sure. Small dots rest on few films, and their bars are long: they stray by
# chance. The *expected calibration error* (ECE) is the mean distance from the diagonal, each film
# counted once (here over 15 bins).

# %%
print(f"temperature {result['temperature']:.2f}")
for name, key in (("before", "calibration_error_before"), ("after", "calibration_error")):
    error = result[key]
    interval = "no interval" if error["low"] is None else "[{low:.3f}, {high:.3f}]".format(**error)
    print(f"ECE {name} scaling {error['value']:.3f} {interval}, n = {error['n']}")
print(
    "a perfectly calibrated model with this n: {perfect_model_median:.3f} in the middle, "
    "at most {perfect_model_high:.3f} in 39 of 40 draws".format(**error)
)

# %% [markdown]
# The last line says what chance alone would show with this n. An error below its upper figure is no
# evidence against calibration and, with small n, not much for it.
#
# ## An operating point, and what it is worth elsewhere
#
# A screening test is used at a threshold. We choose it on *validation* so that 95% of the COVID
# films are found (of the last class, if none is called COVID), and apply it to test as it is.

# %%
validation = runs.read_csv(run / "predictions_val.csv")
positive = evaluation.positive_class(classes)
threshold = calibration.threshold_at_sensitivity(
    validation["label"] == positive, validation[f"p_{positive}"], sensitivity=0.95
)
point = calibration.operating_point(table["label"] == positive, table[f"p_{positive}"], threshold)
point.round(3)

# %% [markdown]
# The sensitivity need not be 95% on test: the threshold rests on few validation films. The
# intervals are Wilson's, which take films as independent. What is an alarm worth where the disease
# is rarer? Bayes' rule answers for any *prevalence*, the share of all patients that have the
# disease.

# %% tags=["slide"]
sensitivity, specificity = point["value"]
for prevalence in (0.01, 0.05, 0.20):
    ppv, npv = calibration.predictive_values(sensitivity, specificity, prevalence)
    print(
        f"prevalence {prevalence:.0%}: of 100 flagged films {100 * ppv:.0f} are {positive}; "
        f"of 100 passed films {100 * npv:.1f} are not"
    )

# %% [markdown]
# The rarer the disease, the larger the share of false alarms. In another hospital sensitivity and
# specificity seldom stay as they are.
#
# ## Is acting on it better than not looking?
#
# At a threshold of 0.1 you accept nine false alarms for one case found. *Net benefit* (Vickers and
# Elkin, 2006) counts true positives per film and takes off the false ones at that rate. It is
# compared with calling every film positive, and none.

# %% tags=["slide"]
curve = calibration.net_benefit(
    table["label"] == positive, table[f"p_{positive}"], [t / 100 for t in range(1, 100)]
)
ax = plots.net_benefit(curve, len(table), title=f"Net benefit of a model that finds {positive}")
plots.mark_synthetic(ax, dataset)

# %% [markdown]
# Where the solid line is on top, acting on the model is worth more than either simple rule, at this
# test set's prevalence.
#
# ## May it say "I do not know"?
#
# The films that the model is least sure of can go to a person. How accurate is it on the rest?

# %% tags=["slide"]
ax = plots.abstention(calibration.abstention_curve(truth, probabilities))
plots.mark_synthetic(ax, dataset)

# %% [markdown]
# Read from right to left: each step hands over the least confident films. If the curve rises, the
# errors sit among them, and handing over is worth a reader's time; if it stays flat, the model does
# not know when it is wrong.
#
# ## Is it as good for everyone?
#
# One figure over all films can hide a group that the model fails. The table splits the test films
# by source, view, sex and age; a group of few films gets a wide interval, or none with the reason.

# %%
groups = pd.DataFrame(result["subgroups"])
shown = groups[groups["metric"].isin(["accuracy", "sensitivity"])]
names = shown["subgroup"] + " " + shown["level"] + ": " + shown["metric"]
title = f"Accuracy, and sensitivity for {positive}, by subgroup"
ax = plots.forest(shown.assign(metric=names, **{"class": pd.NA}), title=title)
plots.mark_synthetic(ax, dataset)

# %% [markdown]
# Wide overlap is no evidence of a difference, and among many groups some differ by chance. A clear
# gap is a reason to look at how those films were made, and who they show. Where a source tells
# nothing, the only level is "unknown".
#
# ## COVID against normal alone
#
# Many papers leave the third class out.

# %%
if "covid_vs_normal" in result:
    pair = pd.DataFrame(result["covid_vs_normal"])
    chosen = pair["metric"].isin(["accuracy", "sensitivity", "specificity", "auroc"])
    ax = plots.forest(pair[chosen], title="The same model, COVID against Normal")
    plots.mark_synthetic(ax, dataset)
else:
    print("this dataset has two classes, or lacks COVID or Normal: see the figures above")

# %% [markdown]
# The model is no better here, only the question is smaller. In a clinic the other
# diseases do not stay away.
#
# ## What this does not show
#
# These films come from the places that the training films came from. How the model does in another
# hospital, and whether it looks at the lungs at all, is not in any figure above: that is notebooks
# 05 and 07. Where the source tells the class, as in the Radiography Database, high figures may be
# those of a detector of sources. With phantoms they say nothing about patients.
#
# ## Summary
#
# - The test split was opened once; thresholds and temperature came from validation.
# - Every figure has n and an interval; it is wide where films are few and errors many.
# - Calibrated means that stated confidence and observed accuracy agree; the temperature changes no
#   film's predicted class.
# - Net benefit, abstention and subgroups ask when, for which films and for whom it is of use.
# - Predictive values depend on prevalence and do not travel.
#
# ## Check yourself
#
# 1. 281 of 300 films are right. Is a model with 285 of 300 better?
# 2. Why bootstrap over patients and not over films?
# 3. AUROC is 0.99 and the PPV at 1% prevalence is 20%. Is one of them wrong?
# 4. All dots of a reliability diagram lie on the diagonal. What does it *not* show?
#
# <details><summary>Answers</summary>
#
# 1. The intervals (90.3–95.9% and 91.9–97.0%) overlap widely; on the same films a paired test would
#    tell more.
# 2. Films of one patient err together; counting them as independent makes intervals too narrow.
# 3. No. AUROC ignores prevalence; at 1% even few false alarms outnumber the true ones.
# 4. That the model is of use: always stating the class shares is calibrated, too.
#
# </details>
#
# ## Exercises
#
# One to predict, one to write, one to find out; the cell below a solution checks it. They use made-
# up scores. Copies without solutions: `make student`.

# %%
rng = np.random.default_rng(4)
ill = np.arange(400) % 4 == 0
score = 1 / (1 + np.exp(1 - 2 * ill - rng.normal(size=400)))
owner = np.repeat(np.arange(100), 4)  # a patient has four films ...
right = np.repeat(rng.random(100) < 0.8, 4)  # ... which are all right or all wrong

# %% [markdown]
# **1. Change one line.** A clinic wants to find 99% of the ill, not 95%. Will the threshold rise or
# fall, and what becomes of the specificity? Predict; then compute `strict`, the threshold for a
# sensitivity of 0.99 on these scores, and `cost`, the specificity lost against 0.95.

# %% tags=["solution"]
usual = calibration.threshold_at_sensitivity(ill, score, sensitivity=0.95)
strict = calibration.threshold_at_sensitivity(ill, score, sensitivity=0.99)
specificity = [calibration.operating_point(ill, score, t)["value"].iloc[1] for t in (usual, strict)]
cost = specificity[0] - specificity[1]
print(f"threshold {usual:.2f} -> {strict:.2f}, specificity lost: {cost:.2f}")

# %% tags=["check"]
assert strict is not ... and 0 < strict < 1, "a threshold is one of the scores"
assert (score[ill] >= strict).mean() >= 0.99, "how many of the ill score at least that?"
assert (score[ill] > strict).mean() < 0.99, "a higher threshold would do as well"
assert cost is not ... and cost > 0, "specificity at the usual threshold minus at the strict one"
assert round(cost * (~ill).sum()) == 98, "count the healthy films between both thresholds"

# %% [markdown]
# **2. Choose an operating point.** A missed case costs as much as `price` false alarms. Write
# `best_threshold(ill, score, prevalence, price)`: the score that, as a threshold, has the lowest
# expected cost a film where so many are ill. What happens to it as the disease becomes rare?


# %% tags=["solution"]
def best_threshold(ill, score, prevalence, price):
    """The threshold among the scores with the lowest expected cost a film."""

    def expected_cost(threshold):
        sensitivity, specificity = calibration.operating_point(ill, score, threshold)["value"]
        missed, false = prevalence * (1 - sensitivity), (1 - prevalence) * (1 - specificity)
        return price * missed + false

    return min(np.unique(score), key=expected_cost)


for prevalence in (0.3, 0.1, 0.01):
    print(f"prevalence {prevalence:.0%}: {best_threshold(ill, score, prevalence, 20):.2f}")

# %% tags=["check"]
few, scores_of_few = np.array([0, 1, 0, 1]), np.array([0.1, 0.4, 0.6, 0.9])
common = best_threshold(few, scores_of_few, 0.9, 1)
assert common == 0.4, "where most are ill, what is worse: a case missed or a false alarm?"
assert best_threshold(few, scores_of_few, 0.1, 1) == 0.9, "weigh both errors by the prevalence"
assert best_threshold(few, scores_of_few, 0.1, 20) == 0.4, "weigh the missed cases by their price"

# %% [markdown]
# **3. Find out.** `right` says which films a model got right, `owner` whose films they are. Write
# `interval(right, groups)`, the middle 95% of the accuracy over 1,000 resamples of *groups*. Take
# patients as groups, then films. How much too narrow is the second, and why?


# %% tags=["solution"]
def interval(right, groups):
    """(low, high): middle 95% of the accuracy over 1,000 resamples of groups."""
    counts = pd.Series(right).groupby(groups).agg(["sum", "size"]).to_numpy()
    rng = np.random.default_rng(0)
    draws = [counts[rng.integers(len(counts), size=len(counts))].sum(axis=0) for _ in range(1000)]
    return np.percentile([hits / n for hits, n in draws], [2.5, 97.5])


for name, groups in {"patients": owner, "films": np.arange(len(right))}.items():
    print("over {}: {:.3f} to {:.3f}".format(name, *interval(right, groups)))

# %% tags=["check"]
always = interval(np.ones(8, bool), np.arange(8))
assert always is not None, "the function returns both ends"
assert np.allclose(always, 1), "all right in every resample"
patients, films = (np.ptp(interval(right, g)) for g in (owner, np.arange(len(right))))
assert 0.1 < patients < 0.25, "all films of a drawn patient go in together"
assert 1.6 < patients / films < 2.4, "four films that err together count like how many?"

# %% [markdown]
# ## References
#
# - Guo C. et al. (2017). On calibration of modern neural networks. ICML.
# - Efron B., Tibshirani R. (1993). An introduction to the bootstrap. Chapman & Hall.
# - Vickers A., Elkin E. (2006). Decision curve analysis. Medical Decision Making.
# - Wilson E. B. (1927). Probable inference, the law of succession, and statistical inference. JASA.
