const WIDTH = 1024;  // pixels of the canvas, about, so that an outline is finer than a voxel

/** A colour as canvases hold it: alpha, blue, green, red. */
const tinted = (colour) => Number(`0xff${colour.slice(5, 7)}${colour.slice(3, 5)}${colour.slice(1, 3)}`);

/** Draws a slice with the masks of its classes.
 *
 * @param {HTMLCanvasElement} canvas
 * @param {Result} result
 * @param {{slice: number, at: number, kinds: number[], outline: boolean, opacity: number}} view the classes that are
 *   shown, and the opacity of the fill, 0 for none
 */
export function draw(canvas, result, { slice, at, kinds, outline, opacity }) {
  const { width, height, pixels } = result;
  const [, row, column] = result.prediction.spacing_mm ?? [1, 1, 1];
  const scale = Math.max(1, Math.round(WIDTH / Math.max(width, height * row / column)));
  canvas.width = width * scale;
  canvas.height = Math.max(1, Math.round(height * scale * row / column));
  const context = canvas.getContext("2d");
  const first = slice * pixels;
  const grey = (place) => 0xff000000 | result.flair[first + place] * 0x010101;
  context.drawImage(painted(width, height, grey), 0, 0, canvas.width, canvas.height);
  context.imageSmoothingEnabled = false;
  const toCanvas = new DOMMatrix([canvas.width / width, 0, 0, canvas.height / height, 0, 0]);
  for (const kind of kinds) {
    const { colour } = result.classes[kind], tint = tinted(colour);
    const marked = (place) => result.marks(first + place, at, kind);
    context.globalAlpha = opacity;
    context.drawImage(painted(width, height, (place) => marked(place) ? tint : 0), 0, 0, canvas.width, canvas.height);
    context.globalAlpha = 1;
    if (!outline) continue;
    const path = new Path2D();
    path.addPath(edges(width, height, marked), toCanvas);
    context.strokeStyle = colour;
    context.lineWidth = Math.max(1, canvas.width / 256);
    context.lineCap = "square";
    context.stroke(path);
  }
}

function painted(width, height, colour) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const words = new Uint32Array(image.data.buffer);
  for (let place = 0; place < words.length; place++) words[place] = colour(place);
  context.putImageData(image, 0, 0);
  return canvas;
}

/** The sides of voxels between what is marked and what is not. */
function edges(width, height, marked) {
  const path = new Path2D();
  const line = (x0, y0, x1, y1) => { path.moveTo(x0, y0); path.lineTo(x1, y1); };
  const inside = (x, y) => x >= 0 && y >= 0 && x < width && y < height && marked(y * width + x);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (!marked(y * width + x)) continue;
      if (!inside(x, y - 1)) line(x, y, x + 1, y);
      if (!inside(x, y + 1)) line(x, y + 1, x + 1, y + 1);
      if (!inside(x - 1, y)) line(x, y, x, y + 1);
      if (!inside(x + 1, y)) line(x + 1, y, x + 1, y + 1);
    }
  }
  return path;
}
