# %% [markdown]
# # 1 · What is in the data
#
# **What is in the data, and what could mislead a model?**
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/covidxr/covidxr/blob/main/notebooks/01_eda.ipynb)
#
# You will
#
# - load a dataset as one table, the *manifest*,
# - look at films of each class and at their averages,
# - ask where the films come from, and from whom,
# - find films that are there twice,
# - list what a model could use instead of disease.
#
# *About a minute on a laptop's processor, most of it for making the phantoms the first time.
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
import numpy as np
import pandas as pd

from covidxr import datasets, loaders, phantom, plots, splits

plots.use_style()

# %% tags=["parameters"]
dataset = "phantom"
data_dir = None  # folder of the images; None: the data root
seed = 0

# %% [markdown]
# ## One table for every source
#
# Whatever the source, `load` gives one row per film and the same columns. What a source does not
# tell is NA; nothing is made up. (A *film* here is one X-ray image, digital or not.) The default
# source is *synthetic phantoms*: chest films computed from a model of the thorax and the physics of
# X-rays. They harm nobody's privacy and their truth is known to the pixel, so we can check every
# claim. What they teach about real films is how to ask, not what to expect.

# %%
manifest, root = datasets.load(dataset, data_dir)
classes = datasets.classes_of(manifest)
known = manifest.notna().mean().round(2)
pd.DataFrame({"type": manifest.dtypes, "share known": known}).loc[:"split"]

# %% [markdown]
# A share of 0 means that this source says nothing about the column; the Radiography Database names
# no patient, age, sex or view. `group_id` and `split` are empty until notebook 02 fills them.
# `extent` and `opacity` score how much lung is diseased and how densely, `icu` is intensive care,
# and a *mask* is an image that marks the lungs or the disease.
#
# How many films has each class?

# %% tags=["nbval-check-output"]
for name, count in datasets.class_counts(manifest).items():
    print(f"{name:<14}{count:>6}  {count / len(manifest):.0%}")
print(f"{'all':<14}{len(manifest):>6}")

# %% [markdown]
# The classes are not equally common. A model that always answers with the largest class is right as
# often as that class's share says, and useless: this course never reports accuracy alone.
#
# ## Look at the films
#
# Before any statistic: look. Four films of each class, drawn at random.

# %% tags=["slide"]
pixels, rejected = loaders.decode([root / path for path in manifest["image_path"]], 224)
labels = manifest["label"].to_numpy(str)
rng = np.random.default_rng(seed)
rows = np.concatenate([rng.choice(np.flatnonzero(labels == c), 4, False) for c in classes])
axes = plots.image_grid(pixels[rows], labels[rows], columns=4)
axes.flat[0].figure.suptitle(f"Four films of each class, drawn from n = {len(pixels):,}")
plots.mark_synthetic(axes.flat[0].figure, dataset)
print(f"{len(rejected)} of {len(pixels):,} files rejected")

# %% [markdown]
# Lungs hold air and are dark. *Ground glass* is a haze through which vessels still show;
# *consolidation* is white and hides them. COVID-19 pneumonia tends to lie in both lungs, low and
# towards the edges; other opacities, such as bacterial pneumonia, are more often one-sided. Neither
# is a rule. Some films of disease look normal to the eye: early disease is faint.
#
# ## Where do the films come from?
#
# The most important figure of this notebook. If every film of a class comes from one hospital, a
# model can learn the hospital's scanner and be right about every film without seeing disease.

# %% tags=["slide"]
ax = plots.class_by_source(manifest, title="Films of each class by source")
plots.mark_synthetic(ax, dataset)

# %% [markdown]
# A row is a class; its shares add up to 100%. Rows alike say that the source tells nothing about
# the class. The same counts, to be compared by a test:

# %% tags=["nbval-check-output"]
if manifest["source"].isna().all():
    print("this dataset does not say where a film comes from")
else:
    print(datasets.summary(manifest).to_string())

# %% [markdown]
# In the phantoms both sites send all classes in similar shares, so the site says little about the
# class. In the public COVID-19 Radiography Database the source tells COVID from the rest
# *completely*: its COVID films come mostly from European hospitals and from web pages, all others
# from a North American challenge and a set of children in China. (Its images alone do not say so;
# the sheets `*.metadata.xlsx` that come with them do.) An accuracy of 95–99% on such data is no
# evidence of detecting disease.
#
# ## Who is on the films?
#
# A *confounder* goes with the class and also shows in the picture, so that it can stand in for
# disease. Age, sex and view are the classic ones. Early public mixes used children as their
# normals; a model could then tell age and be called accurate.

# %% tags=["slide"]
ax = plots.histogram_by_class(manifest, "age_years", title="Age by class")
plots.mark_synthetic(ax, dataset)

# %% [markdown]
# Where the curves lie apart, age is a hint at the class. In the phantoms, as in hospitals, the
# healthy are younger on average. A source without ages says so in the figure.
#
# The *view* is the beam's way through the chest. PA (from back to front) is the standard film of a
# patient who stands; AP (from front to back) is taken at the bedside of those too ill to stand,
# and makes the heart look larger. Shares of each class, with n as above:

# %%
for column in ("view", "sex"):
    if manifest[column].isna().all():
        print(f"{column}: unknown for all films")
    else:
        print(pd.crosstab(manifest["label"], manifest[column], normalize="index").round(2), "\n")

# %% [markdown]
# Where the sick have more AP films than the healthy, as in the phantoms, the view is a hint at
# disease that has nothing to do with the lungs. "Unknown" is no comfort: the views still differ,
# we just cannot count them.
#
# ## The average film
#
# Averaging all films of a class blurs the individual and keeps what the class has in common.

# %% tags=["slide"]
averages = {c: pixels[labels == c].mean(axis=0) for c in classes}
counts = datasets.class_counts(manifest)
axes = plots.average_images(averages, counts)
axes.flat[0].figure.suptitle("The average film of each class")
plots.mark_synthetic(axes.flat[0].figure, dataset)

# %% [markdown]
# Averages should differ where disease tends to be. In the phantoms the lungs are brighter in both
# diseases, and in COVID most so low and towards the outer edges. They should *not* differ at the
# borders, where there is no lung; a bright or dark frame in one class would be a trace of how the
# films were collected.
#
# ## How much does brightness alone tell?
#
# One number per film, its mean grey value, knows nothing of anatomy. If it told the classes apart,
# a high score would prove little.

# %%
brightness = manifest.assign(brightness=pixels.mean(axis=(1, 2)))
ax = plots.histogram_by_class(brightness, "brightness", title="Mean grey value by class")
ax.set_xlabel("mean grey value (0 black, 255 white)")
plots.mark_synthetic(ax, dataset)

# %% [markdown]
# In the phantoms the curves largely overlap: exposure and body size move the brightness more than
# disease does. Where they do not overlap, ask why before you train.
#
# ## Films that are there twice
#
# Public collections copy from one another, and patients have follow-ups. Both kinds of near-twins
# must stay on one side of a split. Two films are called near-duplicates when their 32 × 32
# thumbnails correlate above 0.98: how many films have such a twin?

# %% tags=["slide"]
thumbs = np.nan_to_num(splits.thumbnails([root / path for path in manifest["image_path"]]))
similarity = thumbs @ thumbs.T
np.fill_diagonal(similarity, 0)
nearest = similarity.max(axis=1)
ax = pd.Series(nearest).plot.hist(bins=50, color="#0072B2", figsize=(6, 3.2))
ax.axvline(0.98, color="#D55E00", linestyle="--", label="threshold 0.98")
ax.set(xlabel="correlation with the most similar other film", ylabel="films")
ax.set_title(f"{(nearest > 0.98).mean():.1%} of the films have a near-twin, n = {len(thumbs):,}")
ax.legend()
plots.mark_synthetic(ax, dataset)

# %% [markdown]
# All chest films resemble one another, so correlations are high throughout; only the bars to the
# right of the line count as twins. A number needs a look: this is the closest pair.

# %% tags=["slide"]
first, second = np.unravel_index(similarity.argmax(), similarity.shape)
print(f"{(nearest > 0.98).sum():,} of {len(nearest):,} films have another above the threshold")
names = [f"{manifest['image_path'].iloc[i].split('/')[-1]}\n{labels[i]}" for i in (first, second)]
axes = plots.image_grid(pixels[[first, second]], names, columns=2)
axes.flat[0].figure.suptitle(f"The most similar pair, r = {nearest.max():.3f}", y=1.08)
plots.mark_synthetic(axes.flat[0].figure, dataset)

# %% [markdown]
# On phantoms this is one patient twice, with the side marker moved; in a public collection it is
# often one file under two names. Does the source itself say which films belong together?

# %% tags=["nbval-check-output"]
patients = manifest["patient_id"].nunique()
films = manifest.groupby("patient_id").size()
print("patients named:", patients)
print("patients with more than one film:", int((films > 1).sum()))
print("films of these patients:", int(films[films > 1].sum()))

# %% [markdown]
# Where patients are named, the patient is the group: it joins follow-ups however different they
# look, and keeps two people apart however alike. Correlation alone errs both ways on phantoms: most
# similar pairs are two patients, since one program made all, and most follow-ups differ by more
# than the threshold allows. Where the count of patients is 0, similarity has to stand in: in the
# Radiography Database 13% of the COVID films have a near-duplicate, of the normal ones 0.1%.
#
# ## What this does not show
#
# A table can show that classes differ in source, age or view. It cannot show that a model *uses*
# the difference; that takes the experiments of notebook 07. It counts films, not patients, so a
# patient with many films weighs more. And phantoms are tidier than life: they have no tubes, no
# pacemakers, no wrong labels.
#
# ## Summary
#
# - Every source becomes one manifest; unknown stays NA.
# - Films and their averages come first: classes should differ in the lungs, not at the borders.
# - Class by source is the first figure to draw: it shows whether the task can be cheated.
# - Source, age, sex, view and brightness are hints that need no lung.
# - Near-twins exist in public data and must be grouped before splitting.
#
# ## Check yourself
#
# 1. In a dataset all COVID films are AP and all normal films PA. What will a good score mean?
# 2. Why is the average film of a class informative at its *borders*?
# 3. What does a correlation of 0.99 between two thumbnails *not* prove?
# 4. All rows of the figure of class by source look alike. What does it *not* show?
#
# <details><summary>Answers</summary>
#
# 1. That the model can tell AP from PA. Whether it sees disease stays open.
# 2. No lung is there: a difference between classes can only come from how films were made.
# 3. That it is the same person: two people of one build on one machine can come close.
# 4. That the task cannot be cheated: age, view or brightness may still go with the class.
#
# </details>
#
# ## Exercises
#
# One to predict, one to write, one to find out; the cell below a solution checks it. They use small
# phantoms, made here whatever dataset you chose. Copies without solutions: `make student`.

# %%
drawn = [phantom.render(patient, image_size=64) for patient in phantom.plan(60, seed=1)]
small = pd.DataFrame([film.truth for film in drawn])
squares = np.stack([film.image for film in drawn])
chosen = np.random.default_rng(5).choice(len(squares), 3, replace=False)
album = np.concatenate([squares, (0.8 * squares[chosen] + 20).astype(np.uint8)])

# %% [markdown]
# **1. Change one line.** The table of views above has rows that add up to 1: of the COVID films,
# how many are AP? Predict what `normalize="columns"` asks instead, then make that table, `by_view`,
# of `small`.

# %% tags=["solution"]
by_view = pd.crosstab(small["label"], small["view"], normalize="columns")

# %% tags=["check"]
assert isinstance(by_view, pd.DataFrame), "by_view is a table, as pd.crosstab makes it"
assert list(by_view.columns) == ["AP", "PA"], "classes down, views across"
assert np.allclose(by_view.sum(axis=0), 1), "which way do the shares add up now?"

# %% [markdown]
# **2. Find the near-duplicates.** `album` holds the films and, at its end, paler copies of three of
# them. Put the pairs of rows into a set `twins` of tuples, the lower row first.
# `splits.standardise(album)` makes rows whose products are correlations. Is 0.98 the right
# threshold here? Look at the highest correlations before you choose.

# %% tags=["solution"]
rows = splits.standardise(album)
alike = np.triu(rows @ rows.T, k=1)  # each pair once
print(np.sort(alike.ravel())[-6:].round(4))
twins = {(int(i), int(j)) for i, j in np.argwhere(alike > 0.999)}

# %% tags=["check"]
assert isinstance(twins, set), "twins is a set of tuples (lower row, higher row)"
assert all(i < j for i, j in twins), "the lower row first; no film is its own twin"
copies = [np.abs(0.8 * album[i] + 20 - album[j]).max() < 1 for i, j in twins]
assert all(copies), "some pairs are alike but no copies: look at the gap in the correlations"
assert len(copies) == len(chosen), "some copies are missing: is the threshold too strict?"

# %% [markdown]
# **3. Build a trap.** A model that sees nothing but the source can at best answer each film with
# the commonest class of its source. Write `source_score(table)`, its accuracy. Then choose rows of
# `small`, as the table `trap`, that hold Normal and COVID films, ten or more in all, and on which
# this blind model is always right. How would you notice the trap in somebody else's data?


# %% tags=["solution"]
def source_score(table):
    """Accuracy of answering each film with the commonest class of its source."""
    counts = pd.crosstab(table["source"], table["label"])
    return counts.max(axis=1).sum() / len(table)


from_a = (small["label"] == "Normal") & (small["source"] == "site A")
from_b = (small["label"] == "COVID") & (small["source"] == "site B")
trap = small[from_a | from_b]
print(f"all: {source_score(small):.2f}, trap: {source_score(trap):.2f}, n = {len(trap)}")

# %% tags=["check"]
mixed = pd.DataFrame({"source": ["A", "A", "A", "B"], "label": ["x", "x", "y", "y"]})
assert source_score(mixed) == 3 / 4, "what is the best single answer for each source?"
assert source_score(mixed.iloc[1:3]) == 1 / 2, "a source with two classes alike is no help"
assert isinstance(trap, pd.DataFrame), "trap is a table: rows of small"
assert {"Normal", "COVID"} == set(trap["label"]) and len(trap) >= 10, "which films belong in it?"
assert source_score(trap) == 1, "one class from one source, the other from the other"

# %% [markdown]
# ## References
#
# - Chowdhury M. et al. (2020). Can AI help in screening viral and COVID-19 pneumonia? IEEE Access.
# - Cohen J. P. et al. (2020). COVID-19 image data collection: prospective predictions are the
#   future. arXiv:2006.11988.
# - DeGrave A. et al. (2021). AI for radiographic COVID-19 detection selects shortcuts over signal.
#   Nature Machine Intelligence.
