# %% [markdown]
# # 7 · Generalisation
#
# **What happens in another hospital?**
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/covidxr/covidxr/blob/main/notebooks/07_generalisation.ipynb)
#
# You will
#
# - ask how much of the score the border of the films gives alone,
# - see what relatives on both sides of a split are worth,
# - train in one hospital and test in another,
# - plant a shortcut, watch a model fall for it, find it on a map, and compare three cures.
#
# *Under two minutes on a laptop's processor if notebook 03 has run, else about three.
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
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pandas as pd

from covidxr import evaluation, explain, models, phantom, plots, runs, shift, shortcut, training
from covidxr.loaders import XrayDataset
from covidxr.training import TrainConfig

plots.use_style()

# %% tags=["parameters"]
dataset = "phantom"
data_dir = None  # folder of the images; None: the data root
weights = "phantom"  # shipped with the package; or imagenet, none, the path of a checkpoint
image_size = 64
epochs = 8
strength = 1.0  # of the planted shortcut: 0 tells nothing, 1 tells healthy from sick at home
seed = 0

# %% [markdown]
# ## First suspicion: the border
#
# A film's outermost pixels show no lung. If they tell the class, something other than disease does.
# We ask with a *probe*, a logistic regression fitted on the training split: once on the border
# (1/16 of the side), once on a thumbnail of 16 × 16 pixels, in which no radiologist could read.
# Then we show the trained model of notebook 03 films with a part blacked out (*ablation*).

# %%
config = TrainConfig(dataset, data_dir, weights, image_size, epochs, seed=seed)
run = runs.find_or_train(config)
data = runs.prepare(config)
model, metadata = models.load_checkpoint(run / "model.safetensors")
audit = shift.audit(data, evaluation.predictor(model, metadata["temperature"]))

# %% tags=["nbval-check-output"]
for row in audit[audit["metric"] == "accuracy"].itertuples():
    state = "run" if pd.notna(row.value) else "NA"
    print(f"{row.part:<9} {row.input:<28} {row.target:<7} {state}")

# %% [markdown]
# What the dataset does not hold (sources, lung masks) is NA with its reason. The rest, as *balanced
# accuracy*, the mean of the sensitivities over the classes:

# %% tags=["slide"]
shown = audit[audit["metric"] == "balanced_accuracy"]
known = shown.dropna(subset=["value"])
border = known[known["input"] == "border"].iloc[0]
names = shown.assign(question=shown["part"] + ": " + shown["target"])
title = "Class from the border alone: {value:.2f} [{low:.2f}, {high:.2f}]".format(**border)
ax = plots.intervals(names, by="input", series="question", title=title)
plots.mark_synthetic(ax.figure, dataset)

# %% [markdown]
# Grey strokes are chance. A border whose interval lies above chance gives the class away; how far
# the score of the full image rests on that, no probe can say. Where a source can be told from the
# border *and* the sources differ in their share of disease, a shortcut is open. The two sites of
# the phantoms give themselves away at the border, but have nearly the same share of disease.
#
# The probe on thumbnails *with the lungs blacked out* was fitted on such pictures: if its interval
# lies above chance, something outside the lungs, or the shape of the patch, tells the class.
#
# Read the ablations with care. The model was not retrained: a black chest is new to it, and that
# alone costs score. A low score therefore proves nothing; a score clearly above chance *with the
# lungs blacked out* shows that something else, be it only the outline of the black patch, tells the
# class.
#
# ## Second suspicion: relatives
#
# Films of one patient (or copies of one film) resemble each other. Split film by film, a relative
# of many a test film stands in training. We fit the probe on thumbnails in both ways and score only
# the films that have a relative.

# %% tags=["nbval-check-output"]
group = data.manifest["group_id"].to_numpy(str)
related = data.manifest["group_id"].duplicated(keep=False)
print(f"films with a relative: {related.sum()} of {len(related)}")

# %%
twins = shift.grouping(data.pixels, data.targets, data.classes, group, seed)
gain = twins.iloc[2]
title = "Too few relatives to tell"
if pd.notna(gain["value"]):
    title = "Relatives are worth {value:+.3f} [{low:+.3f}, {high:+.3f}]".format(**gain)
ax = plots.intervals(twins, by="input", series="metric", title=title)
plots.mark_synthetic(ax.figure, dataset)

# %% [markdown]
# The difference is paired: same films, same resamples. If its interval excludes 0, the higher score
# is a leak; where it reaches 0, or nearly, these films cannot tell. A large network that can learn
# films by heart gains more from it than this probe, and the more the more films have relatives.
#
# ## Two hospitals
#
# Now the real question. It needs two sites that film all classes, and a truth that we control, so
# from here on the films are *synthetic phantoms*, whatever dataset you chose. Their sites differ
# in vendor: blur, noise, contrast, and the marker. The films are small, so that eight short
# trainings fit into the time.

# %%
folder = data_dir if dataset == "phantom" else None
small = TrainConfig("phantom", folder, image_size=40, epochs=4, lr=3e-3, seed=seed)
films = runs.prepare(small)
truth, part = films.targets, films.manifest["split"].to_numpy(str)
group = films.manifest["group_id"].to_numpy(str)
at_a = (films.manifest["source"] == "site A").to_numpy()

# %% tags=["nbval-check-output"]
print(pd.crosstab(films.manifest["source"], films.manifest["split"]).to_string())

# %% [markdown]
# One function trains on some rows and chooses the epoch on validation films of the same sites;
# another scores a model on the test films at home and elsewhere.


# %%
def learn(pixels, rows, start=None, val_pixels=None):
    """Train on `rows`: 4 epochs from random weights, or 3 more from the model `start`."""
    training.set_seed(seed)
    options = small if start is None else replace(small, epochs=3, lr=2e-3)
    model = models.build_model(len(films.classes)) if start is None else deepcopy(start)
    sites = films.manifest["source"]
    val = (part == "val") & sites.isin(sites.iloc[rows]).to_numpy()  # the same sites as `rows`
    val_pixels = pixels if val_pixels is None else val_pixels
    sets = XrayDataset(pixels[rows], truth[rows]), XrayDataset(val_pixels[val], truth[val])
    training.fit(model, *sets, options)
    return model


# %%
def test(model, pixels, home=at_a):
    """Accuracy on the test films of the home site ("in") and of the other ("out")."""
    rows, predict = part == "test", evaluation.predictor(model)
    arguments = pixels[rows], truth[rows], films.classes, group[rows], home[rows]
    table = shift.in_and_out(predict, *arguments)
    return table[table["metric"] == "accuracy"]


# %%
rows_a, rows_b = (np.flatnonzero((part == "train") & site) for site in (at_a, ~at_a))
base_a, base_b = learn(films.pixels, rows_a), learn(films.pixels, rows_b)
clean_a = learn(films.pixels, rows_a, base_a)
clean_b = learn(films.pixels, rows_b, base_b)

# %% tags=["slide"]
scores = {"trained at A": test(clean_a, films.pixels)}
scores["trained at B"] = test(clean_b, films.pixels, ~at_a)
table = pd.concat(t.assign(model=name) for name, t in scores.items())
table["where"] = table["input"].map({"in": "in-source", "out": "out-of-source"})
a, b = (scores[f"trained at {site}"]["value"].tolist() for site in "AB")
title = f"Films of A: own model {a[0]:.2f}, B's {b[1]:.2f}; of B: {b[0]:.2f}, A's {a[1]:.2f}"
ax = plots.intervals(table, by="model", series="where", title=title)
plots.mark_synthetic(ax.figure, "phantom")

# %% [markdown]
# Same disease, same physics, another vendor. Compare on the films of *one* site, since the films of
# the two differ: the in-source point of one model with the out-of-source point of the other. Both
# score the same films, so a paired difference would be sharper; where the intervals overlap widely,
# no loss is shown; and where an interval holds the grey stroke (always
# answering the commonest class), the model has learnt next to nothing. These short trainings on 40
# pixels are too weak to show a small loss. A paper with one hospital reports the in-source figure
# alone.
#
# ## A planted shortcut
#
# Suppose that at site A the sick are filmed in bed, by a mobile unit that burns a token into the
# corner, while at site B that unit serves the outpatients. At `strength` 1 the token tells healthy
# from sick at A without error and misleads at B; at 0 it is there by chance.

# %%
sick = (films.manifest["label"] != "Normal").to_numpy()
carries = shortcut.carriers(sick, at_a, strength, seed)
planted = shortcut.plant(films.pixels, carries)

# %% tags=["nbval-check-output"]
state = np.where(sick, "sick", "healthy")
share = pd.DataFrame({"site": films.manifest["source"], "state": state, "carries": carries})
share = share.pivot_table(values="carries", index="site", columns="state")
print(share.round(2).to_string())

# %% tags=["slide"]
first = []
for site in (at_a, ~at_a):
    for kind in (sick, ~sick):
        first.append(np.flatnonzero((part == "test") & site & kind)[0])
titles = [f"site {site}, {state}" for site in "AB" for state in ("sick", "healthy")]
axes = plots.image_grid(planted[first], titles)
plots.mark_synthetic(axes[0, 0].figure, "phantom")

# %% [markdown]
# The table gives the share of films that carry the token. Two models start from the same weights
# and get the same three epochs at site A: one on clean films, one on films with the token.

# %%
tricked = learn(planted, rows_a, base_a)
scores = {"clean films": test(clean_a, films.pixels), "with the token": test(tricked, planted)}

# %% tags=["slide"]
table = pd.concat(t.assign(model=name) for name, t in scores.items())
table["where"] = table["input"].map({"in": "in-source", "out": "out-of-source"})
inside, outside = scores["with the token"]["value"]
title = f"The shortcut: {inside:.2f} at home, {outside:.2f} away"
ax = plots.intervals(table, by="model", series="where", title=title)
plots.mark_synthetic(ax.figure, "phantom")

# %% [markdown]
# The token tells sick from healthy, but not `COVID` from `Lung_Opacity`, so even a model that reads
# it perfectly is not right everywhere. On its own test split the tricked model looks no worse, as a
# rule better; no metric of notebook 04 would betray it, since its test films carry the same token.
# Only the other hospital does.
#
# ## Does a map find it?
#
# Grad-CAM (notebook 05) marks the pixels that speak for a class; here the true one, whether or not
# the model found it. We compare the two
# models on sick test films of site A, and count the share of the map's energy inside the token,
# which covers few pixels. On films of 40 pixels layer4 has 2 × 2 cells; layer3, with 3 × 3, is
# coarse too, but enough to tell a corner.

# %%
look = np.flatnonzero((part == "test") & at_a & sick & carries)
spot = np.broadcast_to(shortcut.token(planted.shape[1]), (len(look), *planted.shape[1:]))
maps = {
    name: np.maximum(explain.grad_cam(model, planted[look], truth[look], layer="layer3"), 0)
    for name, model in {"clean": clean_a, "tricked": tricked}.items()
}
print(f"the token covers {spot.mean():.1%} of a film; n = {len(look)} films")
for name, found in maps.items():
    energy = explain.mean_with_interval(explain.energy_inside(found, spot), group[look])
    print("{0}: {value:.1%} [{low:.1%}, {high:.1%}] of the energy inside".format(name, **energy))

# %% tags=["slide"]
pictures = [planted[look[0]], *(255 * m[0] / max(m[0].max(), 1e-9) for m in maps.values())]
axes = plots.image_grid(pictures, [f"film 1 of {len(look)}", "clean model", "tricked model"])
plots.mark_synthetic(axes[0, 0].figure, "phantom")

# %% [markdown]
# White is most evidence, each map on its own scale; one film stands for all, the figures printed
# above are the evidence. A share far above the token's share of pixels means that the model looks
# there. The clean model never saw a token, so its share tells what the corner gets by itself; but
# look where its map is highest: to be free of the token is not yet to be on the disease. The map
# shows *where*, never *why*: had the token been spread over the whole film (a contrast, say), there
# would be no spot.
#
# ## Three cures
#
# 1. *Balanced sources*: as many training films, half from each site. Site B is then no longer
#    unseen; this cure needs films from elsewhere.
# 2. *Masking*: the corners blacked out, in training and testing.
# 3. *Augmentation*: each training film gets the corners of another one, so that a token says
#    nothing; test films stay as they are.
#
# Two and three need the suspicion that the corners lie. All start from the same weights and get the
# same three epochs.

# %%
masked, swapped = shortcut.hide_corners(planted), planted.copy()
swapped[rows_a] = shortcut.swap_corners(planted[rows_a], seed)
train = np.flatnonzero(part == "train")
both = train[shortcut.balance(films.manifest["label"].to_numpy(str)[train], at_a[train], seed)]

# %%
scores = {"shortcut": test(tricked, planted)}
scores["balanced sources"] = test(learn(planted, both, base_a), planted)
scores["masking"] = test(learn(masked, rows_a, base_a), masked)
scores["augmentation"] = test(learn(swapped, rows_a, base_a, planted), planted)

# %% tags=["slide"]
table = pd.concat(t.assign(model=name) for name, t in scores.items())
table["where"] = table["input"].map({"in": "site A", "out": "site B"})
away = table[table["where"] == "site B"].set_index("model")
cured, chance = away["value"].drop("shortcut"), away["chance"].iloc[0]
shares = f"{cured.min():.2f} to {cured.max():.2f} cured, chance {chance:.2f}"
title = f"Site B: {outside:.2f} tricked, {shares}"
ax = plots.intervals(table, by="model", series="where", title=title)
plots.mark_synthetic(ax.figure, "phantom")
regained = (cured - outside) / max(inside - outside, 0.01)
print("share of the loss regained:", regained.round(2).to_dict())

# %% [markdown]
# Two questions. Is the token's harm undone? Then site B rises from far below chance (the grey
# stroke) at least to it. Is disease recognised there? Only as far as the point stands *above*
# chance, and the clean model of site A, above, says how much there was to regain. The share of the
# loss, from home to away, that a cure regains answers the first question alone. Where the intervals
# of two cures overlap, do not rank them. With a strength near 0 there is little to cure.
#
# ## What this does not show
#
# Hospitals differ in patients, in who gets filmed and in who writes the labels; our two differ in
# vendor alone. A shortcut on real films is seldom one bright square, and a cure for the one you
# know leaves the others. The probes are linear: a border that they cannot read may still be read by
# a network. And phantoms say nothing about patients.
#
# ## Summary
#
# - A score above chance from the border or without lungs is a finding: say it beside the headline.
# - Split by patient; the difference to a split by film is a leak, not a skill.
# - A good in-source figure does not promise an out-of-source one; small films and short trainings
#   show it with a token only.
# - A shortcut is invisible on a test split that carries it; maps and other hospitals show it.
# - Balance, mask or augment; then measure again elsewhere.
#
# ## Check yourself
#
# 1. Lungs only and lungs blacked out both score low. Does the model use neither?
# 2. The border probe scores at chance. Is the dataset free of shortcuts?
# 3. Why does the in-source figure of the tricked model *not* show that anything is wrong?
# 4. Balanced sources does well at site B. Is that an out-of-source figure?
#
# <details><summary>Answers</summary>
#
# 1. Not shown. The model was not retrained; both kinds of picture are new to it.
# 2. No. It is a linear probe on a narrow frame; a token further in, say, escapes it.
# 3. Its test films come from site A and carry the same token.
# 4. No. Site B was in its training; a third site would be needed.
#
# </details>
#
# ## Exercises
#
# One to predict, one to find out; the cell below a solution checks it. They use small phantoms,
# made here, and a probe instead of a network. Copies without solutions: `make student`.

# %%
drawn = [phantom.render(patient, image_size=40) for patient in phantom.plan(300, seed=2)]
squares = np.stack([film.image for film in drawn])
ill = np.array([film.truth["label"] != "Normal" for film in drawn])
here = np.array([film.truth["source"] == "site A" for film in drawn])
first_half = np.arange(len(drawn)) < len(drawn) // 2  # to fit; the second half is to test

# %% [markdown]
# **1. Predict.** A model reads nothing but the token and calls its carriers sick. At
# strength 1 it is always right at site A. Predict its accuracy at both sites for 1, 0.5 and 0; then
# write `token_score(strength)`, the pair (at A, elsewhere), from `shortcut.carriers(ill, here,
# strength)`.


# %% tags=["solution"]
def token_score(strength):
    """Accuracy at site A and elsewhere of calling sick whoever carries the token."""
    agrees = shortcut.carriers(ill, here, strength) == ill
    return agrees[here].mean(), agrees[~here].mean()


for strength_tried in (1, 0.5, 0):
    print(strength_tried, np.round(token_score(strength_tried), 2))

# %% tags=["check"]
assert token_score(1) is not None, "return two numbers: at site A, elsewhere"
assert token_score(1) == (1, 0), "always right at home means what elsewhere?"
assert np.allclose(token_score(0.5), (3 / 4, 1 / 4), atol=0.1), "carriers tells the probabilities"
assert np.allclose(token_score(0), 1 / 2, atol=0.1), "a token that stands anywhere tells nothing"

# %% [markdown]
# **2. Break a model with a token, and mend it.** Plant the token at strength 1 (`shortcut.plant`),
# shrink the films to 16 × 16 (`shift.shrink`) and fit `shift.linear_probe()` to tell `ill` on site
# A's films in the first half (`first_half & here`). Its accuracies on the second half: `home` at
# site A, `away` at the other. Then hide the corners of the planted films (`shortcut.hide_corners`)
# and do it again: `mended`, the accuracy at the other site. Compare it with the same probe on films
# without any token: is the cure a success?


# %% tags=["solution"]
def probe_accuracy(pixels):
    """Accuracy on the second half, (site A, elsewhere), of a probe fitted on site A's first."""
    rows = shift.shrink(pixels, 16)
    probe = shift.linear_probe().fit(rows[first_half & here], ill[first_half & here])
    right = probe.predict(rows) == ill
    return right[~first_half & here].mean(), right[~first_half & ~here].mean()


tampered = shortcut.plant(squares, shortcut.carriers(ill, here, 1.0))
home, away = probe_accuracy(tampered)
mended = probe_accuracy(shortcut.hide_corners(tampered))[1]
clean = probe_accuracy(squares)
print(f"home {home:.2f}, away {away:.2f}, mended {mended:.2f}; without any token:")
print(f"home {clean[0]:.2f}, away {clean[1]:.2f}")

# %% tags=["check"]
assert isinstance(home, float) and home > 0.95, "at home the token gives every answer away"
assert away < 0.5, "worse than a coin: what does the token mean at the other site?"
assert mended > away + 0.1, "hide the corners of the films to fit and of those to test"

# %% [markdown]
# ## References
#
# - Zech J. R. et al. (2018). Variable generalization performance of a deep learning model to detect
#   pneumonia in chest radiographs. PLOS Medicine.
# - DeGrave A. J., Janizek J. D., Lee S.-I. (2021). AI for radiographic COVID-19 detection selects
#   shortcuts over signal. Nature Machine Intelligence.
# - Geirhos R. et al. (2020). Shortcut learning in deep neural networks. Nature Machine
#   Intelligence.
# - Maguolo G., Nanni L. (2021). A critic evaluation of methods for COVID-19 automatic detection
#   from X-ray images. Information Fusion.
