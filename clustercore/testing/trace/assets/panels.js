// Everything beside the diagram: the moment's states as a table, the list of events, filters, legend.

function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "style") made.style.cssText = value;
    else if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

const byId = (id) => document.getElementById(id);

// --- The moment ---

// Entries side by side. More of a log than this nobody compares by eye.
const MAX_SLOTS = 60;

function drawMoment(step, states, width) {
  const event = step > 0 ? EVENTS[step - 1] : null;
  drawHappened(step, event);
  const broken = VIOLATIONS.filter(({ place }) => place < step);
  byId("broken").hidden = broken.length === 0;
  byId("broken").textContent = broken
    .map(({ event: { name, text, node }, place }) => `Broken at step ${place + 1}${node ? ` on ${node}` : ""}: ${name}${text ? `\n${text}` : ""}`)
    .join("\n\n");
  const nodes = states.at(step);
  const [first, last] = windowOf(nodes, width);
  const head = element("tr", {}, ...["node", "role", "term", "vote", "leader", "commit", "applied"].map((name) => element("th", {}, name)));
  for (let index = first; index <= last; index++) head.append(element("th", { className: "index" }, `${index}`));
  const bad = new Set(broken.map(({ event: { node } }) => node));
  const rows = [...nodes].map(([name, node]) => stateRow(name, node, event, first, last, bad.has(name)));
  byId("states").replaceChildren(element("thead", {}, head), element("tbody", {}, ...rows));
}

function drawHappened(step, event) {
  const line = byId("happened");
  if (event === null) {
    line.replaceChildren(element("span", { className: "soft" }, EVENTS.length ? "Before the first event." : "Nothing happened."));
    return;
  }
  line.replaceChildren(
    element("b", {}, event.node ?? (event.event === "noted" ? "next:" : "network:")),
    ` ${describe(event)} `,
    element("span", { className: "soft" }, detailOf(event)),
  );
}

function detailOf(event) {
  const sent = event.event === "sent" ? event : MESSAGE.get(event.message)?.event;
  if (!sent || !("message" in event)) return "";
  const detail = Object.entries(sent.detail || {}).map(([name, value]) => `${name} ${value}`);
  return `(${[`message ${sent.message}`, `term ${sent.term}`, ...detail].join(", ")})`;
}

/** Return the first and the last index whose entries are shown: as many as fit, the newest. */
function windowOf(nodes, width) {
  const ends = [...nodes.values()].map((node) => node.baseIndex + node.log.length);
  const last = Math.max(0, ...ends);
  const fit = Math.max(6, Math.min(MAX_SLOTS, Math.floor((width - 520) / 46)));
  return [Math.max(1, last - fit + 1), last];
}

function stateRow(name, node, event, first, last, isBad) {
  const slot = termSlot(node.term);
  const roleName = node.up ? node.role.replace("_", "-") : node.role ? "down" : "not started";
  const role = element("span", { className: `role ${node.up ? node.role : "down"}`, style: `--c: var(--t${slot})` }, roleName + (node.paused ? ", paused" : ""));
  const quiet = node.up ? undefined : "-";
  const member = membership(name, node);
  const row = element("tr", { className: `${node.up ? "" : "down"} ${isBad ? "bad" : ""} ${event?.node === name ? "acts" : ""}` },
    element("td", { className: "name", title: member }, name),
    element("td", {}, role),
    element("td", { style: `color: var(--t${slot}); font-weight: 650` }, `${node.term}`),
    element("td", {}, node.vote ?? "-"),
    element("td", {}, quiet ?? node.leader ?? "-"),
    element("td", {}, quiet ?? `${node.commit}`),
    element("td", {}, quiet ?? `${node.applied}`),
  );
  row.dataset.node = name;
  const isAppended = event?.node === name && event.event === "appended";
  const fresh = new Set(isAppended ? event.entries.map((entry) => entry[0]) : []);
  for (let index = first; index <= last; index++) {
    const cell = element("td", { className: "slot" });
    if (index <= node.baseIndex) {
      const text = index === node.baseIndex ? `${index}:${node.baseTerm}` : `${index}`;
      cell.append(element("div", { className: "entry snapshot", title: `covered by the snapshot up to ${node.baseIndex}:${node.baseTerm}` }, text, element("small", {}, "snap")));
    } else if (index <= node.baseIndex + node.log.length) {
      cell.append(entryBox(node, node.log[index - node.baseIndex - 1], fresh.has(index)));
    }
    row.append(cell);
  }
  return row;
}

function membership(name, node) {
  const joint = node.oldVoters.length ? `, leaving ${node.oldVoters.join(" ")}` : "";
  const learners = node.learners.length ? `, learners ${node.learners.join(" ")}` : "";
  return node.voters.length ? `voters ${node.voters.join(" ")}${joint}${learners}` : "no configuration";
}

function entryBox(node, entry, isFresh) {
  const [index, term, kind, text] = entry;
  const durable = !node.up || isDurable(node, entry);
  const committed = node.up && index <= node.commit;
  const classes = ["entry", durable && "durable", committed && "committed", isFresh && "fresh"].filter(Boolean).join(" ");
  const what = kind === "command" ? text || "command" : { no_op: "no-op", configuration: "config" }[kind] ?? kind;
  const title = `entry ${index} of term ${term}: ${kind} ${text}; ${durable ? "on disk" : "not on disk yet"}, ${committed ? "committed" : "not known to be committed"}`;
  return element("div", { className: classes, style: `--c: var(--t${termSlot(term)})`, title }, `${index}:${term}`, element("small", {}, what));
}

// --- The list of events ---

const ROW = 22;

class EventList {
  constructor(onPick) {
    this.list = byId("list");
    this.rows = byId("rows");
    this.places = [];
    this.step = 0;
    this.list.addEventListener("scroll", () => this.draw());
    this.rows.addEventListener("click", (click) => {
      const row = click.target.closest(".row");
      if (row) onPick(Number(row.dataset.place) + 1);
    });
  }

  filter(hidden) {
    const isShown = (event) => {
      const message = event.message === undefined ? null : MESSAGE.get(event.message);
      return !message || !hidden.has(message.kind);
    };
    this.places = EVENTS.map((_, place) => place).filter((place) => isShown(EVENTS[place]));
    this.rows.style.height = `${this.places.length * ROW}px`;
  }

  show(step) {
    this.step = step;
    // The last row at or before the step.
    let row = this.places.length - 1;
    while (row > 0 && this.places[row] >= step) row -= 1;
    const { scrollTop: top, clientHeight: height } = this.list;
    if (row * ROW < top + ROW || (row + 2) * ROW > top + height) this.list.scrollTop = row * ROW - height / 2;
    this.draw();
  }

  draw() {
    const { scrollTop: top, clientHeight: height } = this.list;
    const first = Math.max(0, Math.floor(top / ROW) - 4);
    const last = Math.min(this.places.length, Math.ceil((top + height) / ROW) + 4);
    const rows = this.places.slice(first, last).map((place, offset) => this.row(place, first + offset));
    this.rows.replaceChildren(...rows);
  }

  row(place, number) {
    const event = EVENTS[place];
    const classes = ["row", place === this.step - 1 && "now", place >= this.step && "later", event.event === "violated" && "bad", event.event === "noted" && "note"];
    const row = element("div", { className: classes.filter(Boolean).join(" "), style: `top: ${number * ROW}px`, title: `${event.time.toFixed(6)} s` },
      element("span", { className: "no" }, `${place + 1}`),
      element("span", { className: "who" }, event.node ?? ""),
      element("span", { className: "what" }, describe(event)));
    row.dataset.place = place;
    return row;
  }
}

// --- Filters and legend ---

function drawFilters(hidden, onChange) {
  const counts = new Map();
  for (const { kind } of MESSAGES) counts.set(kind, (counts.get(kind) ?? 0) + 1);
  byId("filters").append(...KINDS.filter(([kind]) => counts.has(kind)).map(([kind, name]) => {
    const chip = element("button", { type: "button", className: "chip", title: `Show or hide ${name}` }, `${name} `, element("small", {}, `${counts.get(kind)}`));
    chip.dataset.kind = kind;
    chip.setAttribute("aria-pressed", "true");
    chip.addEventListener("click", () => {
      if (!hidden.delete(kind)) hidden.add(kind);
      chip.setAttribute("aria-pressed", `${!hidden.has(kind)}`);
      onChange();
    });
    return chip;
  }));
}

/** Small drawings made by the diagram's own strokes, so that they cannot differ from it. */
function drawLegend(diagram) {
  const samples = [
    ["follower", (d) => d.drawBand({ role: "follower", term: 1 }, 2, 30, 9)],
    ["pre-candidate", (d) => d.drawBand({ role: "pre_candidate", term: 1 }, 2, 30, 9)],
    ["candidate", (d) => d.drawBand({ role: "candidate", term: 2 }, 2, 30, 9)],
    ["leader", (d) => d.drawBand({ role: "leader", term: 2 }, 2, 30, 9)],
    ["down", (d) => d.drawBand({ role: "down", term: 0 }, 2, 30, 9)],
    ["request", (d) => { d.line(2, 13, 26, 5, d.colours.terms[1], 1.5); d.arrowHead(2, 13, 30, 4, d.colours.terms[1], 7); }],
    ["with entries", (d) => { d.line(2, 13, 26, 5, d.colours.terms[1], 2.5); d.arrowHead(2, 13, 30, 4, d.colours.terms[1], 8); }],
    ["answer", (d) => { d.line(2, 5, 26, 13, d.colours.terms[1], 1.5, [4, 3]); d.arrowHead(2, 5, 30, 14, d.colours.terms[1], 7); }],
    ["once more", (d) => { d.line(2, 5, 26, 13, d.colours.terms[1], 1.5, [1.5, 3]); d.arrowHead(2, 5, 30, 14, d.colours.terms[1], 7); }],
    ["lost", (d) => { d.line(4, 5, 24, 12, d.colours.dim, 1.3); d.cross(24, 12, 4, d.colours.ink); }],
    ["starts", (d) => d.legendMark("started")],
    ["crashes", (d) => d.legendMark("crashed")],
    ["proposal", (d) => d.legendMark("proposed")],
    ["write, on disk", (d) => d.legendWrite("durable")],
    ["write lost", (d) => d.legendWrite("failed")],
    ["commit index", (d) => d.legendCommit()],
  ];
  const legend = byId("legend");
  legend.replaceChildren(element("span", {}, "Colour is the term:", ...[1, 2, 3, 4, 5, 6, 7, 8].map((term) => element("b", { style: `color: var(--t${term})` }, `${term}`)), "and so on."));
  for (const [name, draw] of samples) {
    const canvas = element("canvas", { style: "width: 32px; height: 18px" });
    const ratio = window.devicePixelRatio || 1;
    canvas.width = 32 * ratio;
    canvas.height = 18 * ratio;
    const sample = Object.create(diagram, { context: { value: canvas.getContext("2d") }, width: { value: 32, writable: true } });
    sample.context.scale(ratio, ratio);
    sample.context.font = FONT;
    sample.context.textBaseline = "middle";
    sample.labels = [];
    draw(sample);
    legend.append(element("span", {}, canvas, name));
  }
  const box = (classes) => element("div", { className: `entry ${classes}`, style: "--c: var(--t1); width: 26px; height: 18px; padding: 0; font-size: 10px" }, "3:1");
  legend.append(
    element("span", {}, box(""), "entry, index:term"), element("span", {}, box("durable"), "on the node's disk"),
    element("span", {}, box("durable committed"), "known committed"),
  );
}

Object.assign(Diagram.prototype, {
  legendMark(kind) {
    const y = kind === "proposed" ? 23 : 9;
    this.drawOneMark({ event: kind }, 16, y);
  },
  legendWrite(outcome) { this.drawOneWrite({ outcome }, 5, 27, 9); },
  legendCommit() { this.drawOneCommit(12, 18); this.label("3", 18, 12, this.colours.ink, { force: true }); },
});
