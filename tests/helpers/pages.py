"""What tests do with the viewer's page in a browser, and a scan to drop on it."""

import numpy as np
from scipy import ndimage


def head_volume():
  """A head that is dim, with something bright in slices 3 to 8 of 12, [12, 60, 64]; brightest in slice 5."""
  z, y, x = np.mgrid[:12, :60, :64]
  head = 90 * (((y - 30) / 27) ** 2 + ((x - 32) / 28) ** 2 < 1)
  spot = 150 * np.exp(-(((z - 4.6) / 2) ** 2) - ((y - 22) / 7) ** 2 - ((x - 40) / 9) ** 2)
  noise = np.random.default_rng(3).normal(0, 6, z.shape)
  return ndimage.gaussian_filter(head + spot + noise, (0, 0.7, 0.7)).clip(0, 255).round().astype(np.uint8)


VOLUME = head_volume()
PROBABILITY = VOLUME.astype(np.float32) / np.float32(255)


def upload(page, *files):
  page.locator("#files").set_input_files([{"name": name, "mimeType": "", "buffer": content} for name, content in files])
  page.wait_for_selector("#result:not([hidden]), #error:not([hidden])")
  assert text(page, "error") == ""


def text(page, name):
  return page.locator(f"#{name}").inner_text()


def move(page, threshold):
  """Moves the slider to one of 0.01 to 0.99."""
  page.locator("#threshold").evaluate(
    "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input')); }", round(threshold * 100) - 1
  )


def shown(page):
  return int(text(page, "where").split()[1])


def sides(page):
  return {side: page.locator(f".side.{side}").inner_text() for side in ("left", "right", "top", "bottom")}
