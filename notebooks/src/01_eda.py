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
# On Colab this installs the course's package; elsewhere it is installed already.
import subprocess
import sys

if "google.colab" in sys.modules:
    package = "git+https://github.com/covidxr/covidxr"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", package], check=True)

# %%
import numpy as np
import pandas as pd

from covidxr import datasets, loaders, plots, splits

plots.use_style()

# %% tags=["parameters"]
dataset = "phantom"
data_dir = None  # folder of the images; None: the data root
seed = 0

# %% [markdown]
# ## One table for every source
#
# Whatever the source, `load` gives one row per film and the same columns. What a source does not
# tell is NA; nothing is made up. The default source is *synthetic phantoms*: chest films computed
# from a model of the thorax and the physics of X-rays. They harm nobody's privacy and their truth
# is known to the pixel, so we can check every claim. What they teach about real films is how to
# ask, not what to expect.

# %%
manifest, root = datasets.load(dataset, data_dir)
classes = datasets.classes_of(manifest)
known = manifest.notna().mean().round(2)
pd.DataFrame({"type": manifest.dtypes, "share known": known}).loc[:"split"]

# %% [markdown]
# A share of 0 means that this source says nothing about the column: `group_id` and `split` are
# empty until notebook 02 fills them.

# %% tags=["nbval-check-output"]
for name, count in datasets.class_counts(manifest).items():
    print(f"{name:<14}{count:>6}  {count / len(manifest):.0%}")
print(f"{'all':<14}{len(manifest):>6}")

# %% [markdown]
# The classes are not equally common. A model that always answers with the largest class is right
# about half of the time here and useless, which is why this course never reports accuracy alone.
#
# ## Look at the films
#
# Before any statistic: look. Four films of each class, drawn at random.

# %%
pixels, rejected = loaders.decode([root / path for path in manifest["image_path"]], 224)
labels = manifest["label"].to_numpy(str)
rng = np.random.default_rng(seed)
rows = np.concatenate([rng.choice(np.flatnonzero(labels == c), 4, False) for c in classes])
axes = plots.image_grid(pixels[rows], labels[rows], columns=4)
plots.mark_synthetic(axes.flat[0].figure, dataset)
print(f"{len(rejected)} of {len(pixels):,} files rejected")

# %% [markdown]
# Lungs hold air and are dark. *Ground glass* is a haze through which vessels still show;
# *consolidation* is white. COVID-19 tends to lie in both lungs, low and towards the edges; other
# opacities are more often one-sided. Some films of disease look normal to the eye: early disease
# is faint.
#
# ## Where do the films come from?
#
# The most important figure of this notebook. If every film of a class comes from one hospital, a
# model can learn the hospital's scanner and be right about every film without seeing disease.

# %%
ax = plots.class_by_source(manifest, title="Each class comes from which source?")
plots.mark_synthetic(ax, dataset)

# %% tags=["nbval-check-output"]
if manifest["source"].isna().all():
    print("this dataset does not say where a film comes from")
else:
    print(datasets.summary(manifest).to_string())

# %% [markdown]
# In the phantoms both sites send all classes in similar shares, so the site says little about the
# class. In the public COVID-19 Radiography Database the source tells the class *completely*: its
# COVID films come from European collections, its normal films from a North American challenge.
# Figures of 95–99% on such data are not evidence of detecting disease.
#
# ## Who is on the films?
#
# Age, sex and view are the classic confounders. An early public mix used children as its normals;
# a model could then tell age and be called accurate.

# %%
ax = plots.histogram_by_class(manifest, "age_years", title="Age by class")
plots.mark_synthetic(ax, dataset)

# %%
for column in ("view", "sex"):
    if manifest[column].isna().all():
        print(f"{column}: unknown for all films")
    else:
        print(pd.crosstab(manifest["label"], manifest[column], normalize="index").round(2), "\n")

# %% [markdown]
# AP films are taken of patients too ill to stand, with a portable machine. Where the sick have more
# AP films than the healthy, *view* is a hint at disease that has nothing to do with the lungs.
#
# ## The average film
#
# Averaging all films of a class blurs the individual and keeps what the class has in common.

# %%
averages = {c: pixels[labels == c].mean(axis=0) for c in classes}
counts = datasets.class_counts(manifest)
axes = plots.average_images(averages, counts)
plots.mark_synthetic(axes.flat[0].figure, dataset)

# %% [markdown]
# The averages differ where disease tends to be: the lower, outer lungs are brighter in COVID. They
# should *not* differ at the borders, where there is no lung; a bright or dark frame in one class
# would be a trace of how the films were collected.
#
# ## How much does brightness alone tell?
#
# One number per film, its mean grey value, is the weakest possible "model".

# %%
brightness = manifest.assign(brightness=pixels.mean(axis=(1, 2)))
ax = plots.histogram_by_class(brightness, "brightness", title="Mean grey value by class")
ax.set_xlabel("mean grey value (0 black, 255 white)")
plots.mark_synthetic(ax, dataset)

# %% [markdown]
# The curves overlap: brightness depends on exposure and body size more than on disease. Where they
# do not, in your own data, ask why before you train.
#
# ## Films that are there twice
#
# Public collections copy from one another, and patients have follow-ups. Both kinds of near-twins
# must stay on one side of a split. Two films are called near-duplicates when their 32 × 32
# thumbnails correlate above 0.98.

# %%
thumbs = splits.thumbnails([root / path for path in manifest["image_path"]])
similarity = np.nan_to_num(thumbs @ thumbs.T)
np.fill_diagonal(similarity, 0)
ax = pd.Series(similarity.max(axis=1)).plot.hist(bins=50, color="#0072B2", figsize=(6, 3.2))
ax.axvline(0.98, color="#D55E00", linestyle="--", label="threshold 0.98")
ax.set(xlabel="correlation with the most similar other film", ylabel="films")
ax.set_title(f"Most films have no twin, n = {len(thumbs):,}")
ax.legend()
plots.mark_synthetic(ax, dataset)

# %%
first, second = np.unravel_index(similarity.argmax(), similarity.shape)
above = similarity.max(axis=1) > 0.98
print(f"{above.sum()} of {len(above):,} films have another one above the threshold")
names = [f"{manifest['image_path'].iloc[i].split('/')[-1]}\n{labels[i]}" for i in (first, second)]
axes = plots.image_grid(pixels[[first, second]], names, columns=2)
axes.flat[0].figure.suptitle(f"The most similar pair, r = {similarity.max():.3f}", y=1.08)
plots.mark_synthetic(axes.flat[0].figure, dataset)

# %% tags=["nbval-check-output"]
patients = manifest["patient_id"].nunique()
films = manifest.groupby("patient_id").size()
print("patients named:", patients)
print("patients with more than one film:", int((films > 1).sum()))
print("films of these patients:", int(films[films > 1].sum()))

# %% [markdown]
# Where patients are named, the patient is the group: it joins follow-ups however different they
# look, and keeps two people apart however alike. Correlation alone would err both ways here, since
# phantoms come from one program and resemble each other more than people do. Where nobody is named
# similarity has to stand in: the Radiography Database names no patient, and 13% of its COVID films
# have a near-duplicate.
#
# ## What this does not show
#
# A table can show that classes differ in source, age or view. It cannot show that a model *uses*
# the difference; that takes the experiments of notebook 07. And phantoms are tidier than life:
# they have no tubes, no pacemakers, no wrong labels.
#
# ## Summary
#
# - Every source becomes one manifest; unknown stays NA.
# - Class by source is the first figure to draw: it shows whether the task can be cheated.
# - Age, sex, view and brightness are hints that need no lung.
# - Near-twins exist in public data and must be grouped before splitting.
#
# ## Check yourself
#
# 1. In a dataset all COVID films are AP and all normal films PA. What will a good score mean?
# 2. Why is the average film of a class informative at its *borders*?
# 3. What does a correlation of 0.99 between two thumbnails *not* prove?
#
# <details><summary>Answers</summary>
#
# 1. That the model can tell AP from PA. Whether it sees disease stays open.
# 2. No lung is there: a difference between classes can only come from how films were made.
# 3. That it is the same person: two people of one build on one machine can come close.
#
# </details>
#
# ## Exercises
#
# 1. Draw `class_by_source` for the views: replace the column `source` by `view` and read it.
# 2. Lower the threshold to 0.95 and look at ten pairs. Which share shows the same patient?
#
# ## References
#
# - Chowdhury M. et al. (2020). Can AI help in screening viral and COVID-19 pneumonia? IEEE Access.
# - Cohen J. P. et al. (2020). COVID-19 image data collection: prospective predictions are the
#   future. arXiv:2006.11988.
# - DeGrave A. et al. (2021). AI for radiographic COVID-19 detection selects shortcuts over signal.
#   Nature Machine Intelligence.
