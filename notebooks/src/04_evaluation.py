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
# - choose an operating point and learn what it means at another prevalence.
#
# *Under half a minute on a laptop's processor if notebook 03 has run, else about two minutes.
# A teaching and research tool, not a medical device.*

# %%
# On Colab this installs the course's package; elsewhere it is installed already.
import subprocess
import sys

if "google.colab" in sys.modules:
    package = "git+https://github.com/covidxr/covidxr"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", package], check=True)

# %%
import matplotlib.pyplot as plt
import pandas as pd

from covidxr import calibration, evaluation, plots, runs, splits
from covidxr.training import TrainConfig

plots.use_style()

# %% tags=["parameters"]
dataset = "phantom"
data_dir = None  # folder of the images; None: the data root
weights = "none"  # imagenet, none, or the path of a checkpoint
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

# %% tags=["nbval-check-output"]
print(splits.split_table(manifest).to_string())
print("groups in more than one split:", splits.split_overlap(manifest))

# %% [markdown]
# ## Open the test split, once
#
# Nothing so far has seen these films: the epoch and the temperature were chosen on validation.
# Each look at a test score that leads to a change makes the next score a little less honest, so we
# look once and report what comes.

# %%
result = evaluation.evaluate(run)
table = runs.read_csv(run / "predictions_test.csv")
truth, probabilities, classes = evaluation.arrays(table)

# %% tags=["nbval-check-output"]
print("columns:", ", ".join(table.columns))
print("rows:", len(table), table["label"].value_counts().reindex(classes).to_dict())
print("probabilities sum to one:", bool((abs(probabilities.sum(axis=1) - 1) < 1e-6).all()))

# %% [markdown]
# ## Which class is taken for which?

# %%
ax = plots.confusion_matrix(truth, probabilities.argmax(axis=1), classes)
plots.mark_synthetic(ax, dataset)

# %% [markdown]
# Read a row at a time: of the films that truly are of this class, how many went where? The two
# kinds of error differ in cost. A COVID film called normal sends an infectious patient home; a
# normal film called COVID costs a test.
#
# ## Every figure with its interval
#
# With another draw of test patients each figure would come out a little different. The *bootstrap*
# imitates this: draw patients with replacement 2,000 times, compute the figure each time, and keep
# the middle 95%. Patients are drawn, not films, since films of one patient are not independent.

# %%
scores = pd.DataFrame(result["metrics"])
ax = plots.forest(scores, title="Test split, 95% intervals by bootstrap over patients")
plots.mark_synthetic(ax, dataset)

# %% [markdown]
# Stars are figures over all classes, other marks belong to one class. The rare class has the
# widest intervals, because it has the fewest films. An accuracy without its interval, and without
# the sensitivity of each class beside it, hides just what a reader needs.

# %% tags=["nbval-check-output"]
print(len(scores), "figures, with an interval:", int(scores["low"].notna().sum()))
inside = scores["value"].between(scores["low"], scores["high"])
print("each value lies in its interval:", bool(inside.all()))

# %%
overall = scores[scores["class"].isna()].set_index("metric")[["value", "low", "high", "n"]]
overall.round(3)

# %% [markdown]
# If the accuracy lies below its neighbours' in other courses: they report a maximum over epochs on
# the test set. If it lies above 99%, look for a leak before you celebrate.
#
# ## ROC and precision-recall
#
# Both curves walk through all thresholds. The ROC does not depend on how common a class is; the
# precision-recall curve does, and is the sterner of the two for rare classes.

# %%
fig, axes = plt.subplots(1, 2, figsize=(11, 4.6))
plots.roc_curves(truth, probabilities, classes, scores, ax=axes[0])
plots.precision_recall_curves(truth, probabilities, classes, scores, ax=axes[1])
plots.mark_synthetic(fig, dataset)

# %% [markdown]
# An AUROC of 0.5 is chance. The dotted lines on the right are what guessing gives: the share of
# the class.
#
# ## Does a probability of 0.9 mean nine in ten?
#
# Networks tend to be too sure, or, when trained with smoothed labels, not sure enough. One number,
# the *temperature*, fitted on validation, divides all scores before the softmax (Guo et al., 2017).
# It changes no ranking and no decision, only how far a probability can be taken at its word.

# %%
ax = plots.reliability_diagram(truth, probabilities, n_bins=10, label="after temperature scaling")
plots.mark_synthetic(ax, dataset)

# %%
error = result["calibration_error"]
print("expected calibration error {value:.3f} [{low:.3f}, {high:.3f}], n = {n}".format(**error))
print(
    "a perfectly calibrated model with this n: {perfect_model_median:.3f} in the middle, "
    "at most {perfect_model_high:.3f} in 39 of 40 draws".format(**error)
)

# %% [markdown]
# On the diagonal, stated confidence and observed accuracy agree. Small dots rest on few films and
# stray by chance; the second line says how much error chance alone would show with this n.
#
# ## An operating point, and what it is worth elsewhere
#
# A screening test is used at a threshold. We choose it on *validation* so that 95% of the COVID
# films are found, and apply it to test as it is.

# %%
validation = runs.read_csv(run / "predictions_val.csv")
positive = "COVID" if "COVID" in classes else classes[-1]
threshold = calibration.threshold_at_sensitivity(
    validation["label"] == positive, validation[f"p_{positive}"], sensitivity=0.95
)
point = calibration.operating_point(table["label"] == positive, table[f"p_{positive}"], threshold)
point.round(3)

# %%
sensitivity, specificity = point["value"]
for prevalence in (0.01, 0.05, 0.20):
    ppv, npv = calibration.predictive_values(sensitivity, specificity, prevalence)
    print(
        f"prevalence {prevalence:.0%}: of 100 flagged films {100 * ppv:.0f} are {positive}; "
        f"of 100 passed films {100 * npv:.1f} are not"
    )

# %% [markdown]
# The same model, the same threshold: where the disease is rare, most alarms are false. A PPV from
# a test set that is one fifth COVID says nothing about a ward where it is one in a hundred.
#
# ## COVID against normal alone
#
# Many papers leave the third class out. The task is then easier, and the figure higher.

# %%
if "covid_vs_normal" in result:
    pair = pd.DataFrame(result["covid_vs_normal"])
    chosen = pair["metric"].isin(["accuracy", "sensitivity", "specificity", "auroc"])
    ax = plots.forest(pair[chosen], title="The same model, COVID against Normal")
    plots.mark_synthetic(ax, dataset)
else:
    print("this dataset has no COVID and Normal classes")

# %% [markdown]
# ## What this does not show
#
# These films come from the places that the training films came from. How the model does in another
# hospital, and whether it looks at the lungs at all, is not in any figure above: that is notebooks
# 05 and 07. With phantoms it says nothing about patients.
#
# ## Summary
#
# - The test split was opened once; thresholds and temperature came from validation.
# - Every figure has n and an interval; the rare class has the widest.
# - Calibrated means that stated confidence and observed accuracy agree; it changes no ranking.
# - Predictive values depend on prevalence and do not travel.
#
# ## Check yourself
#
# 1. 281 of 300 films are right. Is a model with 285 of 300 better?
# 2. Why bootstrap over patients and not over films?
# 3. AUROC is 0.99 and the PPV at 1% prevalence is 20%. Is one of them wrong?
#
# <details><summary>Answers</summary>
#
# 1. The intervals (90.3–95.9% and 91.9–97.0%) overlap widely; on the same films a paired test would
#    tell more.
# 2. Films of one patient err together; counting them as independent makes intervals too narrow.
# 3. No. AUROC ignores prevalence; at 1% even few false alarms outnumber the true ones.
#
# </details>
#
# ## Exercises
#
# 1. Compute the intervals with `groups=None` (films, not patients). Which get narrower?
# 2. Choose the threshold for a sensitivity of 0.99. What specificity does it cost?
#
# ## References
#
# - Guo C. et al. (2017). On calibration of modern neural networks. ICML.
# - Efron B., Tibshirani R. (1993). An introduction to the bootstrap. Chapman & Hall.
# - Wilson E. B. (1927). Probable inference, the law of succession, and statistical inference. JASA.
