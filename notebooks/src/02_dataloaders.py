# %% [markdown]
# # 2 · From a file to a batch
#
# **How does an X-ray become a batch, fast and without leaks?**
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/covidxr/covidxr/blob/main/notebooks/02_dataloaders.ipynb)
#
# You will
#
# - follow one film from its file to a tensor,
# - split patients, not images, and prove that nobody stands on both sides,
# - see what X-ray-safe augmentation changes, and why it never flips,
# - measure how fast batches arrive, and weigh rare classes.
#
# *Under a minute on a laptop's processor. A teaching and research tool, not a medical device.*

# %%
# Installs the course's package where it is missing, as on Colab and on Kaggle (Internet on).
import subprocess
import sys
from importlib.util import find_spec

if find_spec("covidxr") is None:
    package = "git+https://github.com/covidxr/covidxr"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", package], check=True)

# %%
import time

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

from covidxr import datasets, loaders, phantom, plots, splits
from covidxr.images import RejectedImage, read_image, resize
from covidxr.loaders import Augment, XrayDataset, make_loader
from covidxr.training import set_seed

plots.use_style()

# %% tags=["parameters"]
dataset = "phantom"
data_dir = None  # folder of the images; None: the data root
image_size = 64
batch_size = 32
seed = 0

# %%
set_seed(seed)
manifest, root = datasets.load(dataset, data_dir)
classes = datasets.classes_of(manifest)

# %% [markdown]
# ## One film, three steps
#
# A file may be PNG, JPEG, TIFF, WebP or DICOM, 8 or 16 bit, grey or stored as colour.
# `read_image` makes one grey 8-bit array of it, or says why it cannot. `resize` squares it: the
# aspect ratio goes, since a padded border would tell the model which scanner made the film, and a
# crop would cut off the periphery of the lungs, where COVID-19 tends to sit.

# %% tags=["nbval-check-output"]
film = manifest.iloc[0]
grey = read_image(root / film["image_path"])
square = resize(grey, image_size)
print("resized", square.shape, square.dtype)

# %% [markdown]
# A square of `image_size` pixels a side. `uint8` are whole numbers from 0 to 255, a quarter of the
# memory of floats; the model's first line turns them into floats. What is in the file itself?

# %% tags=["slide"]
fig, axes = plt.subplots(1, 2, figsize=(7, 3.4))
axes[0].imshow(grey, cmap="gray", vmin=0, vmax=255)
axes[0].set(title=f"One file: {grey.shape[1]} × {grey.shape[0]} pixels", xticks=[], yticks=[])
axes[1].hist(grey.ravel(), bins=64, color="#0072B2")
axes[1].set(xlabel="grey value (0 black, 255 white)", ylabel="pixels")
axes[1].set_title(f"Air dark, bone bright, n = {grey.size:,} pixels")
plots.mark_synthetic(fig, dataset)

# %% [markdown]
# Air lets the beam through and is dark; bone and the heart stop more of it and are bright.
# Pneumonia fills air spaces with fluid, so it shows as brightness where darkness should be.
#
# ## A file that cannot be used
#
# A folder from real life holds missing, broken and foreign files, such as colour photographs. They
# must not stop the run, and they must not vanish either.

# %% tags=["nbval-check-output"]
try:
    read_image("no-such-film.png")
except RejectedImage as rejection:
    print(rejection)

# %% [markdown]
# Each rejection names the file and the reason; `predict` turns it into a row of its table. It does
# not know a chest from a hand: a grey picture of anything passes.
#
# ## Split patients, not images
#
# Two films of one patient look alike. If one trains the model and the other tests it, the test
# measures memory. So the split moves *groups*: patients where they are known, else near-duplicates,
# which are films whose 32 × 32 thumbnails correlate above 0.98. `assign_split` deals the groups,
# the largest first, into five *folds* with similar class shares: one fold tests, one validates
# (chooses the epoch and thresholds), three train.

# %%
manifest = splits.add_groups(manifest, root)
manifest = splits.assign_split(manifest, n_folds=5, test_fold=0, seed=seed)

# %% tags=["nbval-check-output", "slide"]
print(splits.split_table(manifest).to_string())
print("groups:", manifest["group_id"].nunique())
print("groups in more than one split:", splits.split_overlap(manifest))

# %% [markdown]
# The last line is the proof: 0 groups on two sides. A random split by image would not pass it:

# %% tags=["nbval-check-output"]
shuffled = manifest.assign(split=np.random.default_rng(seed).permutation(manifest["split"]))
print("split by image, groups in more than one split:", splits.split_overlap(shuffled))

# %% [markdown]
# Each of these groups would stand on more than one side. On phantoms they are patients with
# follow-up films; in the COVID-19 Radiography Database, which names no patient, they are
# near-duplicates, and follow-ups that look different stay undetected.
#
# ## Decode once
#
# Decoding a PNG takes longer than looking at it. `decode` does it once, in threads, into a memory
# map on disk that later epochs and notebooks read. The file's name is a digest of the list of
# images, their sizes, their times and the image size, so a changed image makes a new cache.

# %%
paths = [root / path for path in manifest["image_path"]]
pixels, rejected = loaders.decode(paths, image_size)
print(f"{pixels.nbytes / 1e6:.0f} MB for {len(pixels):,} films, {len(rejected)} rejected")

# %% [markdown]
# A rejected file leaves a black row here; `prepare`, in notebook 03, leaves it out. What is left is
# to number the classes, take the training rows and deal them into shuffled batches.

# %% tags=["nbval-check-output"]
train_rows = np.flatnonzero(manifest["split"] == "train")
targets = manifest["label"].map(classes.index).to_numpy(int)
train_set = XrayDataset(pixels[train_rows], targets[train_rows])
train_loader = make_loader(train_set, batch_size, train=True, seed=seed)
images, labels = next(iter(train_loader))
print("images", tuple(images.shape), images.dtype)
print("labels", tuple(labels.shape), labels.dtype)

# %% [markdown]
# A batch is a block of `batch_size` films with one channel (grey) each, and as many class numbers.
#
# ## X-ray-safe augmentation
#
# Augmentation shows the model each film a little changed: rotated up to 10°, shifted, scaled,
# with another contrast. These are changes that positioning and exposure make in any hospital. Only
# training films are augmented.

# %% tags=["slide"]
augmented = Augment()(images[:6])
fig, axes = plt.subplots(2, 6, figsize=(10, 3.6))
plots.image_grid(images[:6, 0].numpy(), [classes[i] for i in labels[:6]], axes=axes[0])
plots.image_grid(augmented[:, 0].numpy(), ["augmented"] * 6, axes=axes[1])
fig.suptitle(f"Before (above) and after (below) augmentation, 6 films of n = {len(images)}")
plots.mark_synthetic(fig, dataset)

# %% [markdown]
# Above the films as stored, below the same films as the model sees them this time. The heart stays
# on the right of the image, which is the patient's left.
#
# ## Why no flip
#
# Flipping is the first augmentation of every photo course. On a chest film it moves the heart to
# the wrong side (dextrocardia: one pregnancy in 12,000, Bohun 2007) and mirrors the marker. How
# far does the average film tell left from right?

# %% tags=["slide"]
mean_film = pixels[train_rows].mean(axis=0)
asymmetry = mean_film - mean_film[:, ::-1]
fig, axes = plt.subplots(1, 3, figsize=(9, 3.2))
plots.image_grid([mean_film, mean_film[:, ::-1]], ["average film", "flipped"], axes=axes[:2])
shown = axes[2].imshow(asymmetry, cmap="PuOr", vmin=-80, vmax=80)
axes[2].set(title="film minus flipped", xticks=[], yticks=[])
fig.colorbar(shown, ax=axes[2], label="grey values")
fig.suptitle(f"The heart makes left and right differ, n = {len(train_rows)} training films")
plots.mark_synthetic(fig, dataset)

# %% [markdown]
# The two strong patches beside the midline are the heart and its mirror image. A model trained with
# flips sees as many hearts on the wrong side as on the right one, which no hospital sends, and can
# no longer use the side: the shadow of a heart in its place and one where lung should be look
# alike. Whether a finding is in one lung or both survives a flip; in which lung does not.
#
# ## Throughput
#
# Batches should arrive faster than the network can use them; then the processor never waits. We
# time five passes over the cached training films against decoding at most 200 files one by one.

# %%
start = time.perf_counter()
for _ in range(5):
    n_images = sum(len(batch) for batch, _ in train_loader)
loading = 5 * n_images / (time.perf_counter() - start)

start = time.perf_counter()
for path in paths[:200]:
    loaders.read_square(path, image_size)
decoding = len(paths[:200]) / (time.perf_counter() - start)

# %% tags=["slide"]
fig, ax = plt.subplots(figsize=(6, 1.8))
ax.plot([decoding, loading], ["decode each file", "from the cache"], "o", color="#0072B2")
ax.set(xscale="log", xlabel="images per second (log scale)", ylim=(-0.5, 1.5))
ax.set_title(f"From the cache {loading / decoding:,.0f} times faster, n = {n_images:,} films")
plots.mark_synthetic(fig, dataset)

# %% [markdown]
# A network needs far longer to learn from a film than the cache needs to deliver it, so batches
# cost next to nothing; decoding each file in each epoch would not. Times vary from computer to
# computer, and a little from run to run.
#
# ## Rare classes
#
# The classes are not equally common. Two remedies: weigh the loss by class, or draw rare classes
# more often. Both leave the number of *different* rare films as small as it is.

# %% tags=["slide"]
weights = loaders.class_weights(train_set.targets, len(classes))
balanced = make_loader(train_set, batch_size, train=True, balanced=True, seed=seed)
drawn = torch.cat([labels for _, labels in balanced])
for i, name in enumerate(classes):
    share, in_balanced = (train_set.targets == i).float().mean(), (drawn == i).float().mean()
    print(f"{name:<14} share {share:.2f}  loss weight {weights[i]:.2f}  balanced {in_balanced:.2f}")

# %% [markdown]
# The weight is the inverse of share times number of classes, so each class counts the same in the
# loss. The balanced sampler draws with replacement: shares come out about equal, rare films are
# shown more than once an epoch on average, and some common ones not at all.
#
# ## Batches are seeded
#
# The same seed must give the same batches, in the same order; else two runs that differ by one
# option could not be compared.

# %% tags=["nbval-check-output"]
first, again, other = (
    next(iter(make_loader(train_set, batch_size, train=True, seed=s)))[0] for s in (0, 0, 1)
)
print("same seed, same batch:", torch.equal(first, again))
print("other seed, same batch:", torch.equal(first, other))

# %% [markdown]
# As it should be: equal for one seed, different for another.
#
# ## Summary
#
# - A file becomes grey 8-bit pixels or a rejection with its reason; nothing is dropped silently.
# - Groups are split, not images; the overlap is printed and is 0.
# - Augmentation imitates positioning and exposure; it never flips.
# - Films are decoded once; batches then cost next to nothing. Rare classes weigh more or are drawn
#   more often.
#
# ## Check yourself
#
# 1. Why is a validation film not augmented?
# 2. Overlap of groups is 0. Name a leak that this number does not show.
# 3. When would you prefer a balanced sampler to a weighted loss?
# 4. Batches come from the cache many times faster. What does the figure of throughput *not* show?
#
# <details><summary>Answers</summary>
#
# 1. Its score should say how the model does on films as they come, and be the same each time.
# 2. Films of one patient under two identities, or a preprocessing step fitted on all films.
# 3. With very rare classes and small batches: with weights alone many batches hold no rare film.
# 4. How long training takes, which the network decides; nor what it costs to fill the cache.
#
# </details>
#
# ## Exercises
#
# One to predict, one to write, one to find out; the cell below a solution checks it. They use small
# phantoms, made here whatever dataset you chose. Copies without solutions: `make student`.

# %%
patients = phantom.plan(60, seed=1)
drawn = [phantom.render(p, visit, 64) for p in patients for visit in range(len(p.days))]
small = pd.DataFrame([film.truth for film in drawn])
small["group_id"] = small["patient_id"]
squares = np.stack([film.image for film in drawn])

# %% [markdown]
# **1. Change one line.** Above, five folds left three fifths of the films for training. Predict
# what four folds leave, as the share `expected`; then split `small` so, as `four`, and compare.

# %% tags=["solution"]
expected = 1 / 2
four = splits.assign_split(small, n_folds=4, seed=seed)
print(four["split"].value_counts(normalize=True).round(2).to_dict())

# %% tags=["check"]
assert expected is not ..., "one fold tests, one validates: what is left?"
assert isinstance(four, pd.DataFrame), "four is the table that assign_split returns"
assert abs((four["split"] == "train").mean() - expected) < 0.1, "the split says otherwise"
assert abs((four["split"] == "test").mean() - expected) > 0.1, "how many folds were asked for?"
assert splits.split_overlap(four) == 0, "whole groups go to one split"

# %% [markdown]
# **2. Heads or tails.** Which half of a film is brighter below its middle row, where the heart
# lies? Write `right_is_brighter(images)`, the share of films whose right half is. Predict what a
# flip does to it; then measure it on the films, `before`, and flipped, `after`.


# %% tags=["solution"]
def right_is_brighter(images):
    """Share of images (N, S, S) whose lower right quarter is brighter than the lower left one."""
    middle = images.shape[-1] // 2
    lower = images[:, middle:]
    return np.mean(lower[:, :, middle:].mean(axis=(1, 2)) > lower[:, :, :middle].mean(axis=(1, 2)))


before, after = right_is_brighter(squares), right_is_brighter(squares[:, :, ::-1])
print(f"heart on the right of the image: {before:.2f}, flipped: {after:.2f}")

# %% tags=["check"]
corner = np.zeros((4, 6, 6), np.uint8)
corner[0, 5, 5] = corner[1, 5, 0] = corner[2, 0, 5] = corner[3, 4, 4] = 255
assert right_is_brighter(corner) == 2 / 4, "lower half only; the right half of the image"
assert np.isclose(before + after, 1), "a flip exchanges left and right"
assert before > after, "where is the heart on a film as it comes?"

# %% [markdown]
# **3. Without names.** Suppose the source names no patient and you group by look,
# `by_look = splits.near_duplicate_groups(splits.standardise(squares))`. Write
# `torn_and_mixed(patients, groups)`: how many patients have films in more than one group, and how
# many groups hold more than one patient? `found` is the pair for our films. Which of the two
# errors leaks into a test, and which wastes films?


# %% tags=["solution"]
def torn_and_mixed(patients, groups):
    """(patients in more than one group, groups of more than one patient)."""
    table = pd.DataFrame({"patient": np.asarray(patients), "group": np.asarray(groups)})
    torn = table.groupby("patient")["group"].nunique() > 1
    mixed = table.groupby("group")["patient"].nunique() > 1
    return int(torn.sum()), int(mixed.sum())


by_look = splits.near_duplicate_groups(splits.standardise(squares))
found = torn_and_mixed(small["patient_id"], by_look)
print("patients torn apart: {}, groups that mix patients: {}".format(*found))

# %% tags=["check"]
made_up = torn_and_mixed(["a", "a", "b", "b", "c"], [0, 1, 2, 2, 2])
assert made_up is not None and made_up[0] == 1, "how many patients stand in two groups?"
assert made_up[1] == 1, "how many groups hold two patients?"
assert torn_and_mixed(["a", "a", "b"], [0, 0, 1]) == (0, 0), "a perfect grouping has no error"
assert len(found) == 2 and found[0] > 0, "follow-ups of one patient need not look alike"

# %% [markdown]
# ## References
#
# - Chowdhury M. et al. (2020). Can AI help in screening viral and COVID-19 pneumonia? IEEE Access.
# - Rahman T. et al. (2021). Exploring the effect of image enhancement techniques on COVID-19
#   detection using chest X-ray images. Computers in Biology and Medicine.
# - Roberts M. et al. (2021). Common pitfalls and recommendations for using machine learning to
#   detect and prognosticate for COVID-19. Nature Machine Intelligence.
