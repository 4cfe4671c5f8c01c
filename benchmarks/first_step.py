"""Seconds from the start of the process to the first training step, with the cache in place."""

import json
import sys
import time

import psutil

started = psutil.Process().create_time()

from torch import nn  # noqa: E402

from covidxr import runs, training  # noqa: E402
from covidxr.loaders import Augment, make_loader  # noqa: E402
from covidxr.models import build_model  # noqa: E402

loaded = time.time()
config = training.TrainConfig(data_dir=sys.argv[1], image_size=int(sys.argv[2]))
data = runs.prepare(config)
compute, model = training.choose_compute(), build_model(len(data.classes))
optimizer = training.make_optimizer(model.to(compute.device), config)
films = data.part("train", scored=False)
images, targets = next(iter(make_loader(films, config.batch_size, train=True)))
with compute.autocast():
    loss = nn.functional.cross_entropy(model(Augment()(images)), targets)
loss.backward()
optimizer.step()
done = time.time()
seconds = {"libraries": loaded - started, "first_step": done - loaded}
print(json.dumps(seconds | {"images": len(data.manifest)}))
