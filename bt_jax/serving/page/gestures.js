const PER_SLICE = 24;  // pixels of a drag that turns one slice
const ZOOM = 1.25;  // by one notch of the wheel

/** Calls back for what pointers and the wheel do on an element; positions and ways are shares of its size.
 *
 * @param {HTMLElement} element
 * @param {{tool: () => string, draws: () => boolean, zoomed: () => boolean, turn: (slices: number) => boolean, enlarge: (factor:
 *   number, x: number, y: number) => void, move: (x: number, y: number) => void, brighten: (x: number, y: number) => void, press:
 *   (x: number, y: number) => void, draw: (x: number, y: number) => void, release: () => void, cancel: () => void, hover: (x:
 *   number, y: number) => void}} on `turn` returns whether there was another slice; a stroke is pressed, drawn, and released or
 *   canceled
 */
export function listen(element, on) {
  const pointers = new Map();  // where each is that touches the element
  let action, travelled;

  const position = ({ clientX, clientY }) => {
    const { left, top, width, height } = element.getBoundingClientRect();
    return [(clientX - left) / width, (clientY - top) / height];
  };

  element.addEventListener("contextmenu", (event) => event.preventDefault());
  element.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 && event.button !== 2) return;
    element.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, position(event));
    const second = pointers.size > 1;
    if (second && action === "draw") on.cancel();
    action = second ? "pinch" : event.button === 2 ? "window" : on.draws() ? "draw" : on.tool();
    if (action === "draw") on.press(...position(event));
    travelled = 0;
  });
  element.addEventListener("pointermove", (event) => {
    on.hover(...position(event));
    if (!pointers.has(event.pointerId)) return;
    const before = pointers.get(event.pointerId), now = position(event);
    const way = [now[0] - before[0], now[1] - before[1]];
    if (action === "pinch") pinch(event.pointerId, now);
    else if (action === "draw") on.draw(...now);
    else if (action === "window") on.brighten(...way);
    else if (on.zoomed()) on.move(...way);
    else {
      travelled += way[0] * element.getBoundingClientRect().width;
      const slices = Math.trunc(travelled / PER_SLICE);
      if (slices) on.turn(slices);
      travelled -= slices * PER_SLICE;
    }
    pointers.set(event.pointerId, now);
  });
  for (const kind of ["pointerup", "pointercancel"]) {
    element.addEventListener(kind, (event) => {
      pointers.delete(event.pointerId);
      if (pointers.size) return;
      if (action === "draw") on[kind === "pointerup" ? "release" : "cancel"]();
      action = undefined;
    });
  }

  /** Two fingers: what is between them stays between them. */
  function pinch(moved, now) {
    const [other] = [...pointers].filter(([id]) => id !== moved).map(([, place]) => place);
    if (!other) return;
    const before = pointers.get(moved), { width, height } = element.getBoundingClientRect();
    const apart = (place) => Math.hypot((place[0] - other[0]) * width, (place[1] - other[1]) * height);
    const middle = (place) => [(place[0] + other[0]) / 2, (place[1] + other[1]) / 2];
    const [from, to] = [middle(before), middle(now)];
    if (apart(before)) on.enlarge(apart(now) / apart(before), ...from);
    on.move(to[0] - from[0], to[1] - from[1]);
  }

  element.addEventListener("wheel", (event) => {
    if (event.ctrlKey || event.metaKey) return;  // the browser's own zoom
    const way = Math.sign(event.deltaY || event.deltaX);  // with Shift, browsers scroll sideways
    if (!way) return;
    if (event.shiftKey) on.enlarge(ZOOM ** -way, ...position(event));
    else if (!on.turn(way)) return;  // at either end the wheel scrolls the page on
    event.preventDefault();
  }, { passive: false });
}
