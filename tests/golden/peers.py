"""ResNet-50 by people other than us: Hugging Face transformers (PyTorch) and keras.applications."""

import os

import numpy as np

from tests.golden import weights

os.environ.setdefault("KERAS_BACKEND", "jax")


class Transformers:
  """Takes weights by transformers' names; [batch, height, width, channels] in and out."""

  naming = weights.naming("Hugging Face")

  def __init__(self, arrays):
    import torch
    from transformers import ResNetConfig, ResNetForImageClassification

    self.torch = torch
    self.model = ResNetForImageClassification(ResNetConfig(num_labels=1000))
    missing, unknown = self.model.load_state_dict({k: torch.from_numpy(v) for k, v in arrays.items()}, strict=False)
    assert not unknown and all(name.endswith("num_batches_tracked") for name in missing)

  def __call__(self, images, train=False):
    """Every stage's activations by our names, and `logits`."""
    seen = {}
    stem = self.model.resnet.embedder.embedder.register_forward_hook(lambda *call: seen.update(stem=call[-1]))
    self.model.train(train)
    with self.torch.no_grad():
      out = self.model(self.torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), output_hidden_states=True)
    stem.remove()
    seen |= dict(zip(weights.STAGES[1:], out.hidden_states[1:], strict=True))
    maps = {name: value.numpy().transpose(0, 2, 3, 1) for name, value in seen.items()}
    return {**maps, "logits": out.logits.numpy()}

  def arrays(self):
    """Its weights as they are now."""
    return {name: value.numpy().copy() for name, value in self.model.state_dict().items()}


class Keras:
  """Takes weights by Keras's names."""

  naming = weights.naming("Keras")

  def __init__(self, arrays):
    import keras

    self.keras, self.given = keras, arrays

  def _model(self, size):
    model = self.keras.applications.ResNet50(weights=None, classifier_activation=None, input_shape=(size, size, 3))
    for variable in model.variables:
      variable.assign(self.given[variable.path])
    return model

  def __call__(self, images, train=False):
    """Every stage's activations by our names, and `logits`."""
    model = self._model(images.shape[1])
    outputs = [model.get_layer(name).output for name in weights.KERAS_STAGES]
    values = self.keras.Model(model.input, [*outputs, model.output])(images, training=train)
    self.given = {variable.path: np.asarray(variable) for variable in model.variables}
    return {name: np.asarray(value) for name, value in zip((*weights.STAGES, "logits"), values, strict=True)}

  def arrays(self):
    """Its weights as they are now."""
    return self.given

  def save(self, path):
    """Writes them in the format of the suffix."""
    model = self._model(224)
    (model.save_weights if path.name.endswith(".weights.h5") else model.save)(path)


PEERS = {"torch": Transformers, "keras": Keras}
