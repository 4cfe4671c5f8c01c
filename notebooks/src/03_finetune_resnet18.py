# %% [markdown]
# # 3 · Fine-tuning ResNet18
#
# **How does a pre-trained ResNet18 learn this task?**
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/covidxr/covidxr/blob/main/notebooks/03_finetune_resnet18.ipynb)
#
# You will
#
# - take ResNet18 apart and give it a new head,
# - write the training phase by hand and watch one epoch,
# - train three ways: fine-tuned, frozen, from scratch,
# - read a learning curve and say where the best model is.
#
# *About 2 minutes on a laptop's processor for the small run on phantoms. Needs notebooks 01 and 02
# only for understanding. A teaching and research tool, not a medical device.*

# %%
# Installs the course's package where it is missing, as on Colab and on Kaggle (Internet on).
import subprocess
import sys
from importlib.util import find_spec

if find_spec("covidxr") is None:
    package = "git+https://github.com/covidxr/covidxr"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", package], check=True)

# %%
from dataclasses import replace

import pandas as pd
import torch
from torch import nn

from covidxr import CLASSES, phantom, plots, runs, splits
from covidxr.loaders import Augment, class_weights, make_loader
from covidxr.models import build_model
from covidxr.training import TrainConfig, make_optimizer, make_scheduler, set_seed

plots.use_style()

# %% tags=["parameters"]
dataset = "phantom"
data_dir = None  # folder of the images; None: the data root
weights = "phantom"  # shipped with the package; or imagenet, none, the path of a checkpoint
image_size = 64
epochs = 8
seed = 0

# %% [markdown]
# ## The data we start from
#
# One object holds every choice of the run. From it `prepare` does what notebook 02 did step by
# step: manifest, groups, split, decoded pixels. A *group* is a patient, or a set of near-duplicate
# films where the source names no patient.

# %%
config = TrainConfig(dataset, data_dir, weights, image_size, epochs, seed=seed)
data = runs.prepare(config)

# %% tags=["nbval-check-output"]
print(splits.split_table(data.manifest).to_string())
print("groups in more than one split:", splits.split_overlap(data.manifest))

# %% [markdown]
# No group stands in two splits. The test column is counted here and not touched again: it is
# opened in notebook 04, once.
#
# ## The network
#
# ResNet18 (He et al., 2016) has 18 layers with weights. A *stem* halves the image twice; four
# stages of residual blocks turn it into ever coarser and richer maps; the last map is averaged to
# 512 numbers, the film's *features*; a linear *head* turns these into one score per class. The
# scores are also called *logits*; the softmax turns them into probabilities. A radiograph is grey,
# so the first convolution here has one input channel instead of three. RGB weights are summed over
# the channels, which gives the response that three copies of the grey image would give.

# %% tags=["nbval-check-output", "slide"]
set_seed(seed)
model = build_model(len(data.classes), weights)
images, targets = next(iter(make_loader(data.part("train", scored=False), 8)))
with torch.no_grad():
    print("batch     ", tuple(images.shape), images.dtype)
    print("features  ", tuple(model.features(images).shape))
    print("scores    ", tuple(model(images).shape), "for", data.classes)
print("parameters", f"{sum(p.numel() for p in model.parameters()):,}")
print("in head   ", f"{sum(p.numel() for p in model.fc.parameters()):,}")

# %% [markdown]
# Of eleven million parameters the head has 513 per class. The head is drawn anew (with seed 0 it
# is the one that pre-training began with, a fault: docs/WEIGHTS.md). *Pre-trained* means that the
# rest is not: with weights `phantom`, which ship with the package, it has seen 31,000 other
# phantoms and learnt to draw their lungs and lesions, so that the course needs no download.
#
# ## The training phase, by hand
#
# An *epoch* shows the model every training film once. Three things must be chosen first.
#
# - **Loss.** Cross-entropy, with a weight per class, because the classes are not equally common.
#   Without weights a model earns most by being right about the commonest class.
# - **Optimiser.** AdamW (Loshchilov & Hutter, 2019). On a pre-trained backbone the head gets ten
#   times the backbone's rate: it has everything to learn, the backbone little to unlearn.
# - **Schedule.** The rate rises over the first tenth of the steps, then falls along half a cosine.
#
# `scored=False` leaves out the severity scores that the phantoms have; they are for notebook 06.

# %%
train_loader = make_loader(
    data.part("train", scored=False), config.batch_size, train=True, seed=seed
)
val_loader = make_loader(data.part("val", scored=False), 64)
loss_fn = nn.CrossEntropyLoss(class_weights(train_loader.dataset.targets, len(data.classes)))
optimizer = make_optimizer(model, config)
scheduler = make_scheduler(optimizer, steps=len(train_loader), warmup=config.warmup)
augment = Augment()

# %% [markdown]
# Now the epoch itself. Every line matters:
#
# - `model.train()` lets batch normalisation, which centres and scales each map, use the batch's own
#   mean and spread and keep running ones;
# - `zero_grad` forgets the last step's gradients, which PyTorch would otherwise add up;
# - the forward pass computes the scores, the loss compares them with the truth;
# - `backward` computes how each parameter should change, `step` changes it;
# - `model.eval()` switches to the running ones, and `no_grad` saves the bookkeeping.

# %% tags=["slide-code"]
losses = []
model.train()
for images, targets in train_loader:
    optimizer.zero_grad()
    scores = model(augment(images))
    loss = loss_fn(scores, targets)
    loss.backward()
    optimizer.step()
    scheduler.step()
    losses.append(loss.item())

model.eval()
correct = 0
with torch.no_grad():
    for images, targets in val_loader:
        correct += (model(images).argmax(dim=1) == targets).sum().item()
print(f"validation: {correct} of {len(val_loader.dataset)} right after one epoch")

# %% [markdown]
# That is the whole training phase; the rest of this notebook repeats it. Compare the count with the
# largest class in the `val` column above: that many are right for a model that always answers it.
# The loss of each step is noisy, since every batch is another handful of films, so we look at its
# running mean.

# %% tags=["slide"]
ax = pd.Series(losses).plot(style=".", color="0.6", label="one batch", figsize=(6, 3.2))
pd.Series(losses).rolling(10).mean().plot(ax=ax, color="#0072B2", label="mean of 10 batches")
ax.set(xlabel="step (one batch each)", ylabel="training loss (cross-entropy)")
ax.set_title(f"The loss during one epoch, n = {len(train_loader.dataset)} films")
ax.legend()
plots.mark_synthetic(ax, dataset)

# %% [markdown]
# Guessing among K classes costs ln K; for three that is 1.10. On the phantoms one pass hardly
# leaves it behind: it has few steps, and a tenth of them is warm-up. A larger dataset gets further
# in an epoch. One pass is seldom enough.
#
# ## `fit` repeats the epoch
#
# `fit` calls `train_one_epoch`, which is the loop above, then scores the validation split, and
# keeps the weights of the best epoch. It adds one thing: *label smoothing* asks for a little less
# than certainty, so that the scores do not grow without end. Nothing it does sees the test split.
# We train in three ways, or two if there are no weights to start from:
#
# | way | starts from | changes |
# |---|---|---|
# | fine-tuned | the weights at hand | everything, the backbone gently |
# | frozen | the weights at hand | the head only, on features computed once |
# | from scratch | random numbers | everything |

# %%
ways = {"from scratch": replace(config, weights="none"), "frozen": replace(config, freeze=True)}
if weights != "none":
    ways["fine-tuned"] = config
histories = {}
for way, way_config in ways.items():
    print(f"--- {way} (starts from {way_config.weights})")
    run = runs.find_or_train(way_config, data)
    histories[way] = pd.read_csv(run / "history.csv")

# %% [markdown]
# Each line is one epoch; a run that an earlier notebook made is found, not trained again.
#
# ## The learning curves
#
# F1 is the harmonic mean of a class's precision (share of its alarms that are right) and its
# sensitivity (share of its films that are found). *Macro*-F1 is the plain mean over the classes, so
# that a rare class counts as much as a common one.

# %% tags=["slide"]
furthest = max(histories, key=lambda way: histories[way]["val_macro_f1"].max())
ax = plots.learning_curves(
    histories,
    columns=["val_macro_f1"],
    ylabel="macro-F1 on validation",
    title=f"{furthest.capitalize()} gets furthest, n = {len(val_loader.dataset):,} films",
)
plots.mark_synthetic(ax, dataset)

# %% [markdown]
# Read the curves from left to right. *From scratch* has to learn its filters and the task at once:
# it starts low and climbs, with dips while the learning rate is high. *Frozen* can only weigh the
# features that it was given, so it starts higher and levels off early (with weights `none` these
# are random filters, and the head does hardly better than guessing). *Fine-tuned* starts from the
# same features and may still change them. How many epochs does it need for what *from scratch*
# ends with? Each curve is one run: small differences may be chance.
#
# Which epoch was kept? The one with the highest macro-F1:

# %%
best = {way: history.loc[history["val_macro_f1"].idxmax()] for way, history in histories.items()}
pd.DataFrame(best).T[["epoch", "train_loss", "val_loss", "val_macro_f1"]].round(3)

# %% [markdown]
# The training loss is not comparable with the validation loss, and often the higher of the two: it
# has class weights and smoothed labels, it is measured on augmented films, and while the model is
# still learning. Compare either with itself, from epoch to epoch.
#
# **Where ImageNet comes in.** The shipped weights come from phantoms, as these films do: here they
# are at home, and the curve flatters them. The README says what they are worth on real films. With
# `weights = "imagenet"` the backbone starts from 1.3 million photographs instead (torchvision
# downloads 45 MB and checks them by hash). Where nothing can be downloaded the package says so and
# stops; it never puts other weights in their place.
#
# ## What this does not show
#
# The best epoch was *chosen* on the validation split, so its score is a little too good, as is any
# maximum over noisy numbers. Nor does a good score say *what* was learned. Notebook 04 measures
# on films that chose nothing; notebooks 05 and 07 ask what the model looks at.
#
# ## The run that the next notebook opens
#
# A run is a folder: its options, the table of films with their split, a row per epoch, the
# predictions on validation, and the weights of the best epoch. Are they all there?

# %% tags=["nbval-check-output"]
run = runs.find_or_train(config, data)
for name in ("config.json", "manifest.csv", "history.csv", "predictions_val.csv"):
    print(f"{name:<20}{(run / name).is_file()}")
print(f"{'model.safetensors':<20}{(run / 'model.safetensors').is_file()}")

# %% [markdown]
# Nothing in it comes from the test split; notebook 04 adds that.
#
# ## Summary
#
# - ResNet18 turns a film into 512 numbers and a linear head turns these into class scores.
# - The training phase is five lines: zero the gradients, forward, loss, backward, step.
# - The validation split chooses the epoch; the test split has not been opened.
# - What pre-training is worth can be read off the distance between the curves.
#
# ## Check yourself
#
# 1. Why is `model.eval()` called before the validation loop, and what would go wrong without it?
# 2. Why does the head get a higher learning rate than a pre-trained backbone?
# 3. Two runs reach the same validation score, one at epoch 3, one at epoch 8. Which do you trust
#    more, and what more would you want to see?
# 4. What does the highest point of the highest learning curve *not* show?
#
# <details><summary>Answers</summary>
#
# 1. Batch normalisation would use each batch's own statistics, so a film's score would depend on
#    the films beside it, and the running means would take in validation data.
# 2. The head was not pre-trained and must move far; the backbone already holds useful filters that
#    large steps would destroy.
# 3. Neither, on one run each: repeat both with other seeds and compare intervals.
# 4. How good the model is: the epoch was chosen for that score, so part of it is luck.
#
# </details>
#
# ## Exercises
#
# One to predict, one to write, one to find out; the cell below a solution checks it. They use
# sixteen small phantoms, made here, and no training. Copies without solutions: `make student`.

# %%
drawn = [phantom.render(patient, image_size=64) for patient in phantom.plan(60, seed=1)[:16]]
films = torch.stack([torch.tensor(film.image)[None] for film in drawn])
answers = torch.tensor([CLASSES.index(film.truth["label"]) for film in drawn])

# %% [markdown]
# **1. Predict.** The head above has 513 parameters a class. Where does the odd one come from? Write
# `parameters(n_features, n_classes)` for a linear head of any size, without building one.


# %% tags=["solution"]
def parameters(n_features, n_classes):
    """Parameters of a linear head: a weight for each feature and a bias, for each class."""
    return n_classes * (n_features + 1)


# %% tags=["check"]
for n_features, n_classes in ((512, 3), (2, 1), (10, 10)):
    head = nn.Linear(n_features, n_classes)
    expected = sum(p.numel() for p in head.parameters())
    assert parameters(n_features, n_classes) == expected, "a class has its weights, and one more"

# %% [markdown]
# **2. Take out a line.** Someone deletes `optimizer.zero_grad()`. Predict how large the gradient is
# after two backward passes over the same batch, and after three. Then measure: write
# `gradient(passes)`, the norm of the gradient of `model.fc.weight` after so many passes without
# zeroing, for a new `build_model(3)` with `set_seed(0)`, in `eval` mode.


# %% tags=["solution"]
def gradient(passes):
    """Norm of the head's gradient after so many backward passes without zero_grad."""
    set_seed(0)
    model = build_model(3).eval()
    for _ in range(passes):
        nn.functional.cross_entropy(model(films), answers).backward()
    return model.fc.weight.grad.norm().item()


print([round(gradient(passes) / gradient(1), 3) for passes in (1, 2, 3)])

# %% tags=["check"]
assert isinstance(gradient(1), float), "a number: .norm().item()"
assert gradient(1) > 0, "call backward on the loss of the whole batch"
for passes in (2, 3):
    grown = gradient(passes) / gradient(1)
    assert abs(grown - passes) < 0.01, "same model, same batch, nothing zeroed: what adds up?"

# %% [markdown]
# **3. Find out.** Do the scores of a film depend on the films beside it? Put the first film into a
# batch with films 1 to 3, then with 4 to 6, and note by how much its scores change at most: in a
# dictionary `moved` with the keys `"train"` and `"eval"`, the mode of the model. Use the same new
# model (`set_seed(0)`, `build_model(3)`) each time. What would a forgotten `eval` do to a test?


# %% tags=["solution"]
def first_scores(others, mode):
    """Scores (3,) of the first film in a batch with `others`."""
    set_seed(0)
    model = build_model(3).train(mode == "train")
    with torch.no_grad():
        return model(films[[0, *others]])[0]


moved = {
    mode: (first_scores([1, 2, 3], mode) - first_scores([4, 5, 6], mode)).abs().max().item()
    for mode in ("train", "eval")
}
print({mode: f"{change:.6f}" for mode, change in moved.items()})

# %% tags=["check"]
assert isinstance(moved, dict) and set(moved) == {"train", "eval"}, "one number for each mode"
assert moved["eval"] < 1e-4, "with running statistics the neighbours do not matter"
assert moved["train"] > 1e-3, "whose mean and spread does batch normalisation use here?"

# %% [markdown]
# ## References
#
# - He K. et al. (2016). Deep residual learning for image recognition. CVPR.
# - Loshchilov I., Hutter F. (2019). Decoupled weight decay regularization. ICLR.
# - Raghu M. et al. (2019). Transfusion: understanding transfer learning for medical imaging.
#   NeurIPS.
