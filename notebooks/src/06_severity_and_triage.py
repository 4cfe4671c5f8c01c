# %% [markdown]
# # 6 · Severity, triage and progression
#
# **Who should be read first, how bad is it, and is it getting worse?**
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/covidxr/covidxr/blob/main/notebooks/06_severity_and_triage.ipynb)
#
# You will
#
# - score how much of the lungs is ill and compare the score with the truth,
# - ask how unsure each score is, and whether that doubt is honest,
# - put a ward's films in order and count the minutes that the sickest wait,
# - tell a change over days from the noise of measuring.
#
# *About 2 minutes on a laptop's processor for the small run on phantoms. A teaching and research
# tool, not a medical device.*

# %%
# Installs the course's package where it is missing, as on Colab and on Kaggle (Internet on).
import subprocess
import sys
from importlib.util import find_spec

if find_spec("covidxr") is None:
    package = "git+https://github.com/covidxr/covidxr"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", package], check=True)

# %%
import json
from importlib.resources import files

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from covidxr import plots, progression, runs, severity, splits, triage, waiting, worklist
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
# ## A model that scores as well as names
#
# The class says *what*; a ward also asks *how much*. Readers score a film by two numbers (Cohen et
# al., 2020): **extent**, how much of each lung is involved (0 to 4 a lung, 8 in all), and
# **opacity**, how dense it is (0 to 3 a lung, 6 in all). Where a dataset has such scores, the
# ResNet18 gets a second head that learns them beside the class. It scores each lung from its half
# of the film and adds the two up, as the readers do. Notebook 05's run has this head.

# %%
size, passes = image_size, epochs
if image_size < 128:  # too few pixels to score lungs; as in notebook 05
    size, passes = 128, 5
config = TrainConfig(dataset, data_dir, weights, size, passes, seed=seed)
run = runs.find_or_train(config)
data = runs.prepare(config)
films = data.manifest[data.manifest["split"] == "test"].reset_index(drop=True)
found = runs.predict_test(run, data)

# %% tags=["nbval-check-output"]
print(splits.split_table(data.manifest).to_string())
print("groups in more than one split:", splits.split_overlap(data.manifest))
print("test films with a known extent:", int(films["extent"].notna().sum()))

# %% [markdown]
# If the last line says 0, the dataset has no scores, and the cells below that need them show
# nothing.
#
# ## How good is the score?
#
# No one figure does. *Pearson's r* asks whether more looks like more, and forgives a scale that is
# off; *R²* and the *mean absolute error* (MAE) do not forgive. *Bland and Altman* (1986) look at
# the difference: its mean is the *bias*, and 95% of the differences lie within the *limits of
# agreement*. Beside them stands what costs nothing: always answering the training films' mean.

# %%
train = data.manifest[data.manifest["split"] == "train"]
means = {name: train[name].mean() for name in ("extent", "opacity")}
scores = severity.evaluate(found, films, films["group_id"], means)
scored = bool(len(scores))
if scored:
    table = scores[scores["score"].isin(means)].set_index(["score", "metric"]).round(2)
    print(table.to_string())

# %% tags=["slide"]
if scored:
    sick = films["extent"] > 0
    error = (found["extent"] - films["extent"])[sick].astype(float).abs().mean()
    r = table.loc[("extent", "pearson_r"), "value"]
    title = f"r = {r:.2f}; off by {error:.2f} on {sick.sum()} sick films"
    fig, axes = plt.subplots(1, 2, figsize=(10, 4.4), layout="constrained")
    plots.estimates(films["extent"], found["extent"], films["label"], ax=axes[0], title=title)
    plots.bland_altman(films["extent"], found["extent"], ax=axes[1])
    plots.mark_synthetic(fig, dataset)

# %% [markdown]
# Many films have an extent of 0, and for them the task is easy; look at the spread *within* one
# column of dots, too (dots are shifted sideways a little to be seen). In the right-hand panel each
# stripe is one true extent, and its slope means nothing. If the stripes' middles fall from left to
# right, small extents are overrated and large ones underrated: the model plays safe.
#
# ## Does it know when it does not know?
#
# The head also says how far off it expects to be. On validation films these standard deviations
# are scaled once, by a single factor. If they are honest, the truth lies within 1.96 of them on
# about 95% of new films.

# %%
if scored:
    off = (found["extent"] - films["extent"]).abs().astype(float)
    sd = found["extent_sd"].astype(float)
    thirds = pd.qcut(sd, 3, labels=["surest third", "middle third", "least sure third"])
    doubt = pd.DataFrame({"off by": off, "sd": sd, "inside": off <= 1.96 * sd})
    doubt = doubt.groupby(thirds, observed=True)
    print(doubt.mean().assign(n=doubt.size()).round(2).to_string())
    print(f"truth inside the 95% range: {(off <= 1.96 * sd).mean():.2f} of {len(off)} films")

# %% [markdown]
# Errors should grow from the surest third to the least sure one: that is what makes the doubt worth
# having. Where *inside* is below 0.95 the range is too narrow; look at the least sure third, where
# the model errs most. One factor for all films cannot put every third right.
#
# ## Triage: who is read first?
#
# **Urgency** here is the probability of disease times the extent, as a share of its range. A film
# is **in doubt** (its reason stands in the column `to_person`) if the leading class has a
# probability below 0.6, if the extent's sd is above 2, or if both contradict each other: called
# `Normal` with an extent of 2 or more, or diseased with less than 0.5. It is then placed by the
# worst that it could plausibly be, so that doubt never sends a film down. A worklist orders
# reading. It does not replace it: every film is read by a person.

# %% tags=["slide"]
ward = triage.order(found.assign(truth=films["extent"]))
asked = ward["to_person"].notna()
title = f"The model is in doubt about {asked.sum()} of {len(ward)} films"
ax = plots.triage(ward, ward["truth"], title=title)
plots.mark_synthetic(ax, dataset)
reasons = ward.loc[asked, "to_person"].str.split(":").str[0].value_counts()
print(reasons.to_string() if len(reasons) else "no film is in doubt")

# %% [markdown]
# Read from left to right: the sickest films should stand first. Look for full dots high up on the
# right: sick films that the model was sure about and placed late are the ones that triage harms.
# Few films in doubt are no comfort as long as such dots exist: there it errs without knowing it.
#
# ## Minutes waited by the sickest
#
# What is an order worth? Films arrive at random; one reader takes the most urgent that waits. We
# simulate a room that is busy nine tenths of the time, a thousand times, with this model's
# urgencies and the true extents of the same films. *First come* is a room without triage,
# *perfect* orders by the truth, *wrong* by its reverse.

# %% tags=["slide"]
if scored:
    pairs = ward.dropna(subset=["truth", "urgency"])
    minutes = waiting.simulate(pairs["truth"], pairs["urgency"], n_runs=1000, seed=seed)
    waits = waiting.summary(minutes)
    wait = waits.set_index("order")["minutes"]
    title = f"Simulated: {wait['first come']:.0f} min, by the model {wait['model']:.0f}"
    plots.mark_synthetic(plots.waits(waits, title=title), dataset)

# %% [markdown]
# The mark is the mean over a thousand runs, its 95% interval in brackets; the pale bar holds 95% of
# the runs; × compares with first come. On phantoms the sickest tenth is easy to find.
#
# No order shortens the queue: what the sickest gain the others wait longer, and the mean over all
# films is the same. The *wrong* order, a full reversal, is the worst case: it costs the sickest far
# more than no order does. And the emptier the room, the less there is to gain.
#
# ## Is it getting worse?
#
# Measure an unchanged patient twice and the numbers differ. A change counts only if it exceeds the
# **smallest detectable change**, 1.96 · √2 · SEM (Bland & Altman, 1996), where SEM is the standard
# error of measurement. It is taken from sick validation patients with several films: errors that
# all films of a patient share cancel out and are left out. With fewer than ten such patients each
# film's own standard deviation stands in.

# %%
sem = worklist.validation_sem(run)["value"]
usual = sem
if scored and sem is None:
    usual = float(found["extent_sd"].mean())
if scored:
    print("SEM:", f"{usual:.2f} of 8,", "from validation" if sem else "the model's own, on average")
    change = progression.smallest_change(usual)
    print(f"smallest detectable change between two films, model: {change:.2f} of 8")

# %% [markdown]
# For scale, people: from the differences between *two* readers on 192 *real* films
# (Signoroni et al., 2021; their score of 0 to 18 carried over to 0 to 8). The two limits cannot be
# compared where the model's comes from phantoms.

# %% tags=["nbval-check-output"]
change = progression.smallest_change(progression.READER_SEM)
print(f"smallest detectable change between two real films, by two readers' spread: {change:.2f}")

# %%
series = found.assign(study_day=films["study_day"], patient_id=films["patient_id"])
series["true"] = films["extent"]
courses = progression.courses(series, sem) if scored else {}
true = progression.courses(series.assign(extent=series["true"]), usual) if scored else {}
if courses:
    change = [course.change for course in courses.values()]
    limit = [course.limit for course in courses.values()]
    truth = [true[patient].change for patient in courses]
    counts, shares = progression.score(change, limit, truth)
    print(counts.to_string())
    print(shares.round(2).to_string(index=False))

# %% [markdown]
# Rows are the truth, columns what was called. *Right* asks about patients whose true change exceeds
# the limit; *false calls* about those whose extent did not change at all, mostly healthy ones at 0,
# for whom that is easy; *direction* about the sign where the true change is at least 1. The README
# has *right* and *false calls* for a larger set of fresh phantoms.

# %% tags=["slide"]
longest = sorted(courses, key=lambda p: -(series["patient_id"] == p).sum())
longest = [p for p in longest if (series.loc[series["patient_id"] == p, "true"] > 0).any()][:3]
if longest:
    fig, axes = plt.subplots(1, len(longest), figsize=(13, 4), layout="constrained", squeeze=False)
    for ax, patient in zip(axes[0], longest, strict=True):
        plots.timeline(series[series["patient_id"] == patient], courses[patient], ax=ax)
    plots.mark_synthetic(fig, dataset)

# %% [markdown]
# These are the sick patients with the most films. The grey zone is what measuring alone may do; the
# line uses all films, which makes the limit smaller than that for two. *True change* is that of a
# line through the crosses. Where is a true change called stable, and where does the truth lie
# outside a narrow 95% range? A patient who worsens and then recovers may come out as stable: a line
# has no peak.
#
# ## A page for the reader
#
# On one page that opens without network: order, reasons for doubt, heat maps. Given a table of
# patients (`manifest=`) it shows their earlier films too; here every film stands alone. Rejected
# files stand at its end with their reasons. Look for `worklist.html` in the run's folder.

# %%
paths = [data.root / path for path in films["image_path"].iloc[:24]]
page = worklist.make(run, paths, run / "worklist.html")
print(f"{len(page)} films, {page['to_person'].notna().sum()} of them in doubt")

# %% [markdown]
# ## On real films
#
# Phantoms teach the method. On people's films (COVID-19 Image Data Collection; Cohen et al., 2020)
# the same code measures the scores, the *direction* of a change (its sign, without a limit) and the
# first film against intensive care. No patient of a test fold is in this collection's training
# films. The starting weights had seen other public films, whose patients nobody knows, and were
# chosen after a look at three test folds: the figures may be a little too good.

# %% tags=["nbval-check-output"]
real = json.loads(files("covidxr").joinpath("results/severity.json").read_text())
print(real["source"])
for row in real["rows"]:
    interval = "" if row["low"] is None else f"[{row['low']:.2f}, {row['high']:.2f}]"
    print(f"{row['figure']:<52}{row['value']:6.2f}  {interval:<16} n = {row['n']}")

# %% [markdown]
# Two readers agree with r 0.87, on other films and by another score (Signoroni et al., 2021; 192
# films). Held against the experts' scores no model can be shown to be better than they are; an
# outcome could show it. The last two lines try, with admission to intensive care (ICU): same
# patients, no paired interval, so no difference is shown. And compare the limits of agreement with
# those on phantoms above.
#
# ## What this does not show
#
# That triage by model helps patients. Extent on a film is one sign among many; oxygen, age and
# breath rate decide too, and a normal film does not rule the disease out. The simulated room has
# one kind of work and no emergencies by phone. And the model was trained on scores that other
# people gave: where they err together, it errs with them.
#
# ## Summary
#
# - Extent and opacity come from a second head; each lung is scored from its half of the film.
# - An estimate comes with its doubt, and the doubt is checked against the truth.
# - Triage moves waiting from the sickest to the others; a wrong order does harm.
# - A change is called only above the smallest detectable change.
#
# ## Check yourself
#
# 1. r is 0.95 and the MAE 2.0. What kind of error is that, and can it be mended?
# 2. The mean wait is the same in every order. What does the figure of waits *not* show?
# 3. A patient's extent goes from 3.0 to 3.6, the limit is 1.1. What do you say?
# 4. Why is SEM taken from changes within patients and not from all errors?
#
# <details><summary>Answers</summary>
#
# 1. A shift (bias) or a wrong scale. A line fitted on validation films, truth against estimate, can
#    mend both.
# 2. What happens to those who are not the sickest, and whether a shorter wait changes an outcome.
# 3. Neither a change nor that there was none: that much comes from measuring alone.
# 4. What is wrong in the same way on all films of a patient makes no false change.
#
# </details>
#
# ## Exercises
#
# One to predict, one to write, one to find out; the cell below a solution checks it. They use made-
# up films. Copies without solutions: `make student`.

# %%
rng = np.random.default_rng(6)
sick = rng.integers(0, 9, 300).astype(float)  # true extents
urgent = sick + rng.normal(0, 2, 300)  # a model's urgencies

# %% [markdown]
# **1. Predict.** Half as many films arrive. Will the order be worth more minutes to the sickest, or
# fewer? Then compute `busy` and `quiet`: the mean minutes by which "model" beats "first come" in
# `waiting.simulate(sick, urgent, load, n_runs=200)`, for `load = waiting.Load()` (13.5 films an
# hour) and for `waiting.Load(films_per_hour=6.75)`.


# %% tags=["solution"]
def saved(load):
    """Minutes saved for the sickest tenth by the model's order, mean of 200 runs."""
    minutes = waiting.simulate(sick, urgent, load, n_runs=200)
    return (minutes["first come"] - minutes["model"]).mean()


busy, quiet = saved(waiting.Load()), saved(waiting.Load(films_per_hour=6.75))
print(f"saved: {busy:.1f} minutes in the busy room, {quiet:.1f} in the quiet one")

# %% tags=["check"]
assert busy is not ... and busy > 0, "first come first served minus the model's order"
assert 0 < quiet < busy, "fewer films wait in a quiet room"
assert quiet < 5, "halve films_per_hour, leave the rest as it is"

# %% [markdown]
# **2. Call a change.** Write `call(before, after, sem)`: "worse", "better" or "stable" for two
# films, where a change counts above the smallest detectable change.


# %% tags=["solution"]
def call(before, after, sem):
    """What two extents of a patient say, given the standard error of measurement."""
    if abs(after - before) <= progression.smallest_change(sem):
        return "stable"
    return "worse" if after > before else "better"


print(call(3.0, 3.6, sem=0.4), call(3.0, 5.0, sem=0.4), call(5.0, 3.0, sem=0.4))

# %% tags=["check"]
assert call(3.0, 3.6, 0.4) == "stable", "that much comes from measuring alone"
assert call(3.0, 5.0, 0.4) == "worse", "a larger extent is a sicker lung"
assert call(5.0, 3.0, 0.4) == "better", "mind the sign"
assert call(3.0, 5.0, 1.0) == "stable", "the limit grows with the standard error"

# %% [markdown]
# **3. Find out.** A good mean can hide the few whom triage harms. Write `harmed(sick, urgent)`: how
# many of the sickest tenth (by `sick`, ties by position) stand in the lower half of the worklist.


# %% tags=["solution"]
def harmed(sick, urgent):
    """Films of the sickest tenth that are read in the second half."""
    sickest = np.argsort(-sick, kind="stable")[: len(sick) // 10]
    place = np.argsort(np.argsort(-urgent, kind="stable"))
    return int((place[sickest] >= len(sick) / 2).sum())


print(f"harmed: {harmed(sick, urgent)} by the model, {harmed(sick, -sick)} by the wrong order")

# %% tags=["check"]
assert harmed(sick, sick) == 0, "the perfect order harms none of them"
assert harmed(sick, -sick) == 30, "the reverse of it harms them all"
few, late = np.array([8.0] + 9 * [0.0]), np.arange(10.0)
assert harmed(few, late) == 1 and harmed(few, -late) == 0, "the most urgent film comes first"

# %% [markdown]
# ## References
#
# - Cohen J. P. et al. (2020). Predicting COVID-19 pneumonia severity on chest X-ray with deep
#   learning. Cureus.
# - Bland J. M., Altman D. G. (1986). Statistical methods for assessing agreement. Lancet.
# - Bland J. M., Altman D. G. (1996). Measurement error. BMJ.
# - Nix D. A., Weigend A. S. (1994). Estimating the mean and variance of the target distribution.
#   ICNN.
# - Signoroni A. et al. (2021). BS-Net: learning COVID-19 pneumonia severity on a large chest X-ray
#   dataset. Medical Image Analysis.
