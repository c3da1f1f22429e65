"""A notebook's cells, as someone would type them who has a CNN, images and labels; run by tests/test_api.py."""

# %% 1 own images, floats in 0..1, as torch has them
import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

digits = load_digits()
x = torch.tensor(digits.images / 16, dtype=torch.float32)
y = torch.tensor(digits.target)
x_train, y_train, x_val, y_val, x_test, y_test = x[:1200], y[:1200], x[1200:1400], y[1200:1400], x[1400:], y[1400:]

# %% 2 an own module, trained on normalized images
torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(1, 12, 3),
    nn.BatchNorm2d(12),
    nn.ReLU(),
    nn.AvgPool2d(2),
    nn.Flatten(),
    nn.Dropout(0.1),
    nn.Linear(108, 10),
)
MEAN, STD = 0.3, 0.37
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
model.train()
for _ in range(60):
    for part in range(0, len(x_train), 200):
        batch = (x_train[part : part + 200, None] - MEAN) / STD
        loss = nn.functional.cross_entropy(model(batch), y_train[part : part + 200])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
weights_before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

# %% 3 the package
import loihi_convert as lc

assert lc.__version__
assert lc.__all__ == sorted(lc.__all__, key=str)
assert set(lc.__all__) <= set(dir(lc))

# %% 4 one call: images (N, H, W) of floats, torch
snn = lc.convert(model, x_train, timesteps=8, mean=MEAN, std=STD)
assert snn.timesteps == 8

# %% 5 the module is as it was
assert model.training
assert all(torch.equal(weights_before[name], tensor) for name, tensor in model.state_dict().items())

# %% 6 what it is, in a line, and as a table
text = repr(snn)
assert len(text) < 120 and "T = 8" in text and "1x8x8" in text, text
assert "<table" in snn._repr_html_() and "array(" not in snn._repr_html_()
assert len(repr(snn.network)) < 160

# %% 7 what the conversion said
assert any("method='auto'" in note for note in snn.notes)

# %% 8 run, in memory
result = snn.run(x_test, y_test)
assert result.accuracy > 0.8, result
assert abs(result.accuracy - result.cnn_accuracy) < 0.1

# %% 9 the CNN's accuracy is the module's own
model.eval()
with torch.inference_mode():
    own = (model((x_test[:, None] - MEAN) / STD).argmax(1) == y_test).double().mean().item()
assert abs(result.cnn_accuracy - own) < 0.011, (result.cnn_accuracy, own)

# %% 10 a result, in a line, as a table, as a data frame, as a picture
assert "accuracy" in repr(result)
assert "<table" in result._repr_html_()
table = result.table()
assert len(table.rows) >= 4
figure = result.plot()
assert figure.axes

# %% 11 pandas, if it is there
import importlib.util

if importlib.util.find_spec("pandas"):
    frame = result.to_dataframe()
    assert frame.index.name == "timesteps" and abs(frame.accuracy.iloc[-1] - result.accuracy) < 1e-12
else:
    try:
        result.to_dataframe()
    except lc.LoihiConvertError as error:
        assert error.where == "pandas"

# %% 12 classes of each image, after each step
assert result.predictions.shape == (len(x_test),)
assert result.run.potentials.shape == (len(x_test), 8, 10)
assert np.mean(result.predictions == y_test.numpy()) == result.accuracy

# %% 13 without labels there is agreement, and no accuracy
unlabelled = snn.run(x_test[:50])
assert unlabelled.accuracy is None and unlabelled.agreement_with_cnn > 0.8

# %% 14 save and load by str
path = snn.save("own.net")
loaded = lc.load("own.net")
again = loaded.run(x_test, y_test)
assert np.array_equal(again.run.potentials, result.run.potentials)
assert again.cnn_accuracy is None

# %% 15 an existing file is kept
try:
    snn.save("own.net")
    raise SystemExit("overwritten")
except lc.LoihiConvertError as error:
    assert error.where == "own.net"
snn.save("own.net", overwrite=True)

# %% 16 what is in the way of a chip
report = snn.check(target="loihi2")
assert not report.is_usable and snn.check(target="lava").is_usable
assert "loihi2" in repr(report) or "Loihi 2" in repr(report)

# %% 17 for a chip
chip = lc.convert(
    model, x_train[:400], timesteps=8, mean=MEAN, std=STD, quantization=lc.QuantizeOptions(target="loihi2")
)
assert chip.check().is_usable
assert chip.run(x_test[:100], y_test[:100]).accuracy > 0.6

# %% 18 where did the accuracy go
diagnosis = snn.diagnose(x_val, y_val)
assert diagnosis.verdict
assert "<table" in diagnosis._repr_html_()

# %% 19 other methods, uint8 images, NumPy, labels as a list
pixels = np.round(x.numpy() * 255).astype(np.uint8)
percentile = lc.convert(
    model,
    pixels[:1200],
    timesteps=4,
    mean=[MEAN],
    std=[STD],
    balancing=lc.BalanceOptions(method="percentile", percentile=99.9),
    quantization=lc.QuantizeOptions(weight_bits=6),
)
assert percentile.run(pixels[1400:], y_test.tolist()).accuracy > 0.5

# %% 20 accuracy against latency
accuracy = {}
for steps in (1, 4, 16):
    accuracy[steps] = lc.convert(model, x_train[:400], timesteps=steps, mean=MEAN, std=STD).run(x_test, y_test).accuracy
assert accuracy[16] > accuracy[1]

# %% 21 a DataLoader
from torch.utils.data import DataLoader, TensorDataset

loader = DataLoader(TensorDataset(x_test[:, None], y_test), batch_size=64)
assert snn.run(loader).accuracy == result.accuracy

# %% 22 the stages one by one
relu = lc.to_relu_network(model, (1, 8, 8), mean=MEAN, std=STD)
spiking = lc.balance(relu, pixels[:200, None], 8, lc.BalanceOptions(method="ngu-lee", alpha=0.8))
quantized = lc.quantize(spiking, pixels[:200, None])
lc.write(quantized, "stages.net")
assert lc.read("stages.net").timesteps == 8
assert all(len(repr(stage)) < 200 for stage in (relu, spiking, quantized))

# %% 23 mistakes are told by the parameter
for wrong, where in [
    (lambda: lc.BalanceOptions(alpha=2), "alpha"),
    (lambda: lc.BalanceOptions(method="ngulee"), "method"),
    (lambda: lc.QuantizeOptions(weight_bits=9), "weight_bits"),
    (lambda: lc.convert(model, (x_train - MEAN) / STD, timesteps=8, mean=MEAN, std=STD), "images"),
    (lambda: lc.convert(model, x_train, timesteps=8, mean=MEAN), "std"),
    (lambda: lc.convert(model, x_train, timesteps=0), "timesteps"),
    (lambda: snn.run(x_test[:, :6]), "images"),
    (lambda: snn.run(x_test, y_test[:3]), "labels"),
    (lambda: snn.run(x_test, y_test, backend="lava"), "backend"),
    (lambda: lc.load("nowhere.net"), "nowhere.net"),
    (lambda: loaded.diagnose(x_val, y_val), "model"),
]:
    try:
        wrong()
        raise SystemExit(f"nothing was said of {where}")
    except lc.LoihiConvertError as error:
        assert error.where == where, (where, str(error))
        assert "--" not in str(error), str(error)

# %% 24 a layer that cannot be converted is named
try:
    lc.convert(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Sigmoid(), nn.Flatten(), nn.Linear(144, 10)), x_train)
    raise SystemExit("a sigmoid was converted")
except lc.LoihiConvertError as error:
    assert "Sigmoid" in str(error), str(error)

# %% 25 help shows the options with their defaults
import inspect

assert inspect.signature(lc.BalanceOptions).parameters["method"].default == "auto"
assert all(name in lc.BalanceOptions.__doc__ for name in ("alpha", "percentile", "least-squares"))
