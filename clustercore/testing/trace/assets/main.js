// One step is shown everywhere: in the diagram, the table, the list, the slider and the address.

const STATES = new States();
const HIDDEN = new Set();
const ROOT = document.documentElement;

let step = 0;
let isDue = false;
const diagram = new Diagram(byId("canvas"), HIDDEN);
const list = new EventList((next) => go(next));

/** The step that the page begins with: the address's, or where the property broke, or the end. */
function beginning() {
  const named = stepOfAddress();
  if (named !== null) return named;
  return VIOLATIONS.length ? VIOLATIONS[0].place + 1 : EVENTS.length;
}

function stepOfAddress() {
  const found = /^#step=(\d+)$/.exec(location.hash);
  return found ? Math.min(Number(found[1]), EVENTS.length) : null;
}

function go(next, { tellAddress = true } = {}) {
  step = Math.max(0, Math.min(EVENTS.length, next));
  diagram.step = step;
  if (COLUMNS > 0) diagram.show(step > 0 ? COLUMN[step - 1] : 0);
  if (tellAddress) history.replaceState(null, "", `#step=${step}`);
  drawSoon();
}

function goColumn(by) {
  if (COLUMNS === 0) return;
  const column = step > 0 ? COLUMN[step - 1] + by : by - 1;
  go(column < 0 ? 0 : LAST_OF_COLUMN[Math.min(column, COLUMNS - 1)] + 1);
}

// Many changes before the next frame are drawn once.
function drawSoon() {
  if (isDue) return;
  isDue = true;
  requestAnimationFrame(() => {
    isDue = false;
    draw();
  });
}

function drawDiagram() {
  diagram.draw();
  drawOverview(byId("overview"), diagram.colours, diagram);
  Object.assign(ROOT.dataset, { drawn: diagram.drawn, columns: `${diagram.first}-${diagram.last}` });
}

function draw() {
  drawDiagram();
  drawMoment(step, STATES, byId("states").parentElement.clientWidth);
  list.show(step);
  byId("slider").value = step;
  const time = step > 0 ? EVENTS[step - 1].time : 0;
  byId("where").replaceChildren("step ", element("b", {}, `${step}`), ` of ${EVENTS.length}, ${time.toFixed(3)} s`);
  ROOT.dataset.step = step;
}

function resize() {
  const { clientWidth, clientHeight } = byId("diagram");
  diagram.resize(clientWidth, clientHeight);
  diagram.clampLeft();
}

function recolour() {
  diagram.colours = readColours();
  drawLegend(diagram);
  drawSoon();
}

// --- What is said once ---

function introduce() {
  byId("title").textContent = DATA.title || "Trace";
  const length = EVENTS.length ? EVENTS[EVENTS.length - 1].time - EVENTS[0].time : 0;
  const facts = [`${DATA.level} level`, plural(NAMES.length, "node", "nodes"), plural(EVENTS.length, "event", "events"), `${length.toFixed(3)} s`];
  if (DATA.seed !== null) facts.push(`seed ${DATA.seed}`);
  byId("facts").textContent = facts.join("  \u00b7  ");
  const verdict = byId("verdict");
  verdict.hidden = EVENTS.length === 0;
  verdict.className = VIOLATIONS.length ? "bad" : "good";
  verdict.textContent = VIOLATIONS.length ? `\u2717 ${VIOLATIONS[0].event.name}` : "\u2713 no property broken";
  verdict.title = VIOLATIONS.length ? `Go to step ${VIOLATIONS[0].place + 1}` : "";
  verdict.addEventListener("click", goBroken);
  byId("replay-row").hidden = !DATA.replay;
  byId("replay").textContent = DATA.replay;
  byId("hash").textContent = DATA.hash;
  byId("options").textContent = worldText(DATA.options);
  byId("copy").addEventListener("click", () => navigator.clipboard?.writeText(DATA.replay));
  byId("nothing").hidden = EVENTS.length > 0;
  byId("slider").max = EVENTS.length;
  byId("slider").disabled = EVENTS.length === 0;
  byId("canvas").setAttribute("aria-label", `Space-time diagram of ${NAMES.join(", ")}; the table below says the same for one step.`);
}

/** A world's options, one a line; a list of lists, as schedules are, with one item a line. */
function worldText(options) {
  return Object.entries(options).map(([name, value]) => {
    const isTable = Array.isArray(value) && value.some(Array.isArray);
    return `${name}: ${isTable ? value.map((item) => `\n  ${JSON.stringify(item)}`).join("") : JSON.stringify(value)}`;
  }).join("\n");
}

function goBroken() {
  if (VIOLATIONS.length) go(VIOLATIONS[0].place + 1);
}

// --- Hands ---

const KEYS = {
  ArrowRight: (key) => go(step + (key.shiftKey ? 10 : 1)),
  ArrowLeft: (key) => go(step - (key.shiftKey ? 10 : 1)),
  "]": () => goColumn(1),
  "[": () => goColumn(-1),
  Home: () => go(0),
  End: () => go(EVENTS.length),
  v: goBroken,
  "+": () => zoom(1.4),
  "=": () => zoom(1.4),
  "-": () => zoom(1 / 1.4),
  0: () => zoomTo(diagram.fitting()),
};

function zoom(factor, around) {
  diagram.zoomTo(diagram.zoom * factor, around ?? (step > 0 ? diagram.x(COLUMN[step - 1]) : undefined));
  drawSoon();
}

function zoomTo(size) {
  diagram.zoomTo(size);
  drawSoon();
}

function listen() {
  document.addEventListener("keydown", (key) => {
    if (key.ctrlKey || key.metaKey || key.altKey || !(key.key in KEYS)) return;
    key.preventDefault();
    KEYS[key.key](key);
  });
  byId("slider").addEventListener("input", (input) => go(Number(input.target.value)));
  byId("back").addEventListener("click", () => go(step - 1));
  byId("forth").addEventListener("click", () => go(step + 1));
  byId("zoom-in").addEventListener("click", () => zoom(1.4));
  byId("zoom-out").addEventListener("click", () => zoom(1 / 1.4));
  byId("zoom-fit").addEventListener("click", KEYS[0]);
  byId("by-time").addEventListener("change", (change) => {
    diagram.setScale(change.target.checked);
    if (COLUMNS > 0) diagram.show(step > 0 ? COLUMN[step - 1] : 0);
    drawSoon();
  });
  window.addEventListener("hashchange", () => {
    const named = stepOfAddress();
    if (named !== null && named !== step) go(named, { tellAddress: false });
  });
  // Before the next paint, or the diagram would be seen empty: a canvas of a new size has nothing on it.
  new ResizeObserver(() => { resize(); drawDiagram(); list.draw(); }).observe(byId("diagram"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
  listenToPointer(byId("canvas"));
}

function listenToPointer(canvas) {
  let drag = null;
  const place = (event) => [event.offsetX, event.offsetY];
  canvas.addEventListener("wheel", (wheel) => {
    if (wheel.ctrlKey || wheel.metaKey) zoom(Math.exp(-wheel.deltaY / 300), wheel.offsetX);
    else if (Math.abs(wheel.deltaX) > Math.abs(wheel.deltaY) || !isTall()) {
      diagram.left += wheel.deltaX || wheel.deltaY;
      diagram.clampLeft();
      drawSoon();
    } else return;
    wheel.preventDefault();
  }, { passive: false });
  canvas.addEventListener("pointerdown", (event) => {
    drag = { x: event.offsetX, left: diagram.left, moved: false };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = place(event);
    if (drag === null) {
      showTip(diagram.hit(x, y), x, y);
      return;
    }
    if (Math.abs(x - drag.x) > 4) drag.moved = true;
    if (!drag.moved) return;
    canvas.classList.add("dragged");
    diagram.left = drag.left - (x - drag.x);
    diagram.clampLeft();
    drawSoon();
  });
  canvas.addEventListener("pointerup", (event) => {
    if (drag !== null && !drag.moved) go(diagram.stepAt(...place(event)));
    drag = null;
    canvas.classList.remove("dragged");
  });
  canvas.addEventListener("pointerleave", () => showTip(null));
}

function isTall() {
  const { scrollHeight, clientHeight } = byId("diagram");
  return scrollHeight > clientHeight + 1;
}

function showTip(target, x, y) {
  const tip = byId("tip");
  tip.hidden = target === null;
  if (target === null) return;
  const { message } = target;
  const title = message ? `${nameOf(message.event)}, ${message.event.node} to ${message.event.to}` : target.title;
  const detail = message ? ` ${detailOf(message.event)}` : "";
  tip.replaceChildren(element("b", {}, title), element("span", {}, target.text + detail));
  const room = byId("diagram").clientWidth;
  tip.style.left = `${Math.min(x + 14, room - tip.offsetWidth - 8)}px`;
  tip.style.top = `${y + 16}px`;
}

introduce();
drawFilters(HIDDEN, () => { list.filter(HIDDEN); drawSoon(); });
list.filter(HIDDEN);
drawLegend(diagram);
listen();
resize();
diagram.zoom = Math.min(MAX_ZOOM, Math.max(diagram.fitting(), 22));
go(beginning(), { tellAddress: false });
draw();
ROOT.dataset.ready = "true";
