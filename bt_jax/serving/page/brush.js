/** The voxels under a round brush that is drawn along a line in a slice; what lies outside the slice is left out.
 *
 * @param {Plane} plane
 * @param {number} slice
 * @param {number[]} from where the line begins, in pixels of the slice
 * @param {number[]} to where it ends
 * @param {number} diameter in pixels across the slice; round also where pixels are not square
 */
export function underBrush(plane, slice, from, to, diameter) {
  const tall = plane.pixelHeight / plane.pixelWidth, radius = diameter / 2, voxels = new Set();
  const add = (x, y) => { if (x >= 0 && y >= 0 && x < plane.width && y < plane.height) voxels.add(plane.voxel(slice, x, y)); };
  const way = [to[0] - from[0], to[1] - from[1]], steps = Math.max(1, Math.ceil(2 * Math.hypot(...way)));
  for (let step = 0; step <= steps; step++) {
    const [middleX, middleY] = [from[0] + way[0] * step / steps, from[1] + way[1] * step / steps];
    add(Math.floor(middleX), Math.floor(middleY));
    for (let y = Math.floor(middleY - radius / tall); y <= middleY + radius / tall; y++) {
      for (let x = Math.floor(middleX - radius); x <= middleX + radius; x++) {
        if (Math.hypot(x + 0.5 - middleX, (y + 0.5 - middleY) * tall) <= radius) add(x, y);
      }
    }
  }
  return voxels;
}

/** The voxels around a point of a slice that a closed outline encloses; null where there is none, or the point is marked.
 *
 * @param {Plane} plane
 * @param {number} slice
 * @param {number[]} point in pixels of the slice
 * @param {(voxel: number) => boolean} marked
 */
export function enclosed(plane, slice, point, marked) {
  const first = point.map(Math.floor), voxels = new Set(), open = [first];
  while (open.length) {
    const [x, y] = open.pop();
    if (x < 0 || y < 0 || x >= plane.width || y >= plane.height) return null;
    const voxel = plane.voxel(slice, x, y);
    if (voxels.has(voxel) || marked(voxel)) continue;
    voxels.add(voxel);
    open.push([x - 1, y], [x + 1, y], [x, y - 1], [x, y + 1]);
  }
  return voxels.size ? voxels : null;
}
