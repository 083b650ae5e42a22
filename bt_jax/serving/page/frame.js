const MOST = 16;  // times

/** Which part of a picture is shown: how many times it is enlarged, and the point of it in the middle, 0..1 each way. */
export class Frame {
  constructor() {
    this.reset();
  }

  reset() {
    [this.zoom, this.x, this.y] = [1, 0.5, 0.5];
  }

  /** From the whole picture, in pixels of the canvas, to the part that is shown. */
  matrix({ width, height }) {
    return new DOMMatrix([this.zoom, 0, 0, this.zoom, width * (0.5 - this.zoom * this.x), height * (0.5 - this.zoom * this.y)]);
  }

  /** The point of the picture under a point of what is shown, 0..1 each way. */
  under(x, y) {
    return [this.x + (x - 0.5) / this.zoom, this.y + (y - 0.5) / this.zoom];
  }

  /** Enlarges by a factor; the point that is shown at (x, y), 0..1 each way, stays there. */
  enlarge(factor, x = 0.5, y = 0.5) {
    const [fixedX, fixedY] = this.under(x, y);
    this.zoom = Math.min(Math.max(this.zoom * factor, 1), MOST);
    [this.x, this.y] = [fixedX - (x - 0.5) / this.zoom, fixedY - (y - 0.5) / this.zoom];
    this.#keepInside();
  }

  /** Moves the picture by a share of what is shown. */
  move(x, y) {
    this.x -= x / this.zoom;
    this.y -= y / this.zoom;
    this.#keepInside();
  }

  #keepInside() {
    const margin = 0.5 / this.zoom;
    this.x = Math.min(Math.max(this.x, margin), 1 - margin);
    this.y = Math.min(Math.max(this.y, margin), 1 - margin);
  }
}
