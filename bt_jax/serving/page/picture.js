const WIDTH = 1024;  // pixels of the canvas, about, so that an outline is finer than a voxel

/** A colour as canvases hold it: alpha, blue, green, red. */
const tinted = (colour) => Number(`0xff${colour.slice(5, 7)}${colour.slice(3, 5)}${colour.slice(1, 3)}`);

/** The colours of a layer's values, of even lightness from dark to bright; the lowest are clear, so that the picture stays in view. */
export const STOPS = ["#440154", "#3b528b", "#21918c", "#5ec962", "#fde725"];  // viridis
const CLEAR = 0.1;  // share of the highest value at which a colour is fully there
const SCALE = Uint32Array.from({ length: 256 }, (_, value) => {
  const place = value / 255 * (STOPS.length - 1), below = Math.min(Math.floor(place), STOPS.length - 2);
  const part = (stop, from) => parseInt(STOPS[stop].slice(from, from + 2), 16);
  const mixed = (from) => Math.round(part(below, from) + (place - below) * (part(below + 1, from) - part(below, from)));
  const alpha = Math.round(255 * Math.min(value / 255 / CLEAR, 1));
  return ((alpha << 24) | (mixed(5) << 16) | (mixed(3) << 8) | mixed(1)) >>> 0;
});

/** The grey of each stored value of a channel between an intensity shown as black and one shown as white. */
function greys({ stored, lowest, step }, { low, high }) {
  const table = new Uint32Array(stored.BYTES_PER_ELEMENT === 1 ? 2 ** 8 : 2 ** 16);
  return table.map((_, value) => {
    const share = (lowest + step * value - low) / (high - low);
    return 0xff000000 | Math.round(255 * Math.min(Math.max(share, 0), 1)) * 0x010101;
  });
}

/** Draws a slice with the masks of its classes.
 *
 * @param {HTMLCanvasElement} canvas
 * @param {Result} result
 * @param {{plane: Plane, slice: number, at: number, channel: Object, window: {low: number, high: number}, frame: Frame,
 *   kinds: number[], outline: boolean, opacity: number, layer: ?string}} view the classes that are shown, the opacity of the
 *   fill, 0 for none, and the layer of values in place of the fill, null for none
 */
export function draw(canvas, result, { plane, slice, at, channel, window, frame, kinds, outline, opacity, layer }) {
  const { width, height } = plane, tall = plane.pixelHeight / plane.pixelWidth;
  const scale = Math.max(1, Math.round(WIDTH / Math.max(width, height * tall)));
  canvas.width = width * scale;
  canvas.height = Math.max(1, Math.round(height * scale * tall));
  const context = canvas.getContext("2d");
  const toCanvas = frame.matrix(canvas).scale(canvas.width / width, canvas.height / height);
  const place = (picture) => {
    context.setTransform(toCanvas);
    context.drawImage(picture, 0, 0);
    context.resetTransform();
  };
  const table = greys(channel, window);
  place(painted(plane, slice, (voxel) => table[channel.stored[voxel]]));
  context.imageSmoothingEnabled = false;
  if (layer) {
    const { share } = result.layer(layer);
    context.globalAlpha = opacity;
    place(painted(plane, slice, (voxel) => SCALE[Math.round(255 * share(voxel))]));
    context.globalAlpha = 1;
  }
  for (const kind of kinds) {
    const { colour } = result.classes[kind], tint = tinted(colour);
    const marked = (voxel) => result.marks(voxel, at, kind);
    context.globalAlpha = layer ? 0 : opacity;
    place(painted(plane, slice, (voxel) => marked(voxel) ? tint : 0));
    context.globalAlpha = 1;
    if (!outline) continue;
    const path = new Path2D();
    path.addPath(edges(plane, slice, marked), toCanvas);
    context.strokeStyle = colour;
    context.lineWidth = Math.max(1, canvas.width / 256);
    context.lineCap = "square";
    context.stroke(path);
  }
}

function painted(plane, slice, colour) {
  const canvas = new OffscreenCanvas(plane.width, plane.height);
  const context = canvas.getContext("2d");
  const image = context.createImageData(plane.width, plane.height);
  const words = new Uint32Array(image.data.buffer);
  let pixel = 0;
  plane.each(slice, (voxel) => { words[pixel++] = colour(voxel); });
  context.putImageData(image, 0, 0);
  return canvas;
}

/** The sides of voxels between what is marked and what is not. */
function edges(plane, slice, marked) {
  const path = new Path2D(), { width, height } = plane;
  const line = (x0, y0, x1, y1) => { path.moveTo(x0, y0); path.lineTo(x1, y1); };
  const inside = (x, y) => x >= 0 && y >= 0 && x < width && y < height && marked(plane.voxel(slice, x, y));
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (!inside(x, y)) continue;
      if (!inside(x, y - 1)) line(x, y, x + 1, y);
      if (!inside(x, y + 1)) line(x, y + 1, x + 1, y + 1);
      if (!inside(x - 1, y)) line(x, y, x, y + 1);
      if (!inside(x + 1, y)) line(x + 1, y, x + 1, y + 1);
    }
  }
  return path;
}
