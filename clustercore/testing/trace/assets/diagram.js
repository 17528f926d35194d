// The space-time diagram on a canvas: time to the right, a lane for each node. Only what is in view is drawn.

const GUTTER = 74;
const STRIP = 46;
const MIN_LANE = 78;
const MAX_LANE = 180;
// Rows of a lane, from its line.
const TITLE_ROW = -25;
const COMMIT_ROW = 21;
const DISK_ROW = 31;
const BAND = { follower: 3, pre_candidate: 6, candidate: 8, leader: 9, down: 0 };
const MIN_ZOOM = 0.4;
const MAX_ZOOM = 64;
const FONT = '11px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif';

/** The colours of the style sheet, as they are now. */
function readColours() {
  const style = getComputedStyle(document.documentElement);
  const of = (name) => style.getPropertyValue(`--${name}`).trim();
  const names = ["paper", "panel", "line", "faint", "ink", "soft", "dim", "accent", "bad", "bad-paper", "cut", "fade"];
  const colours = Object.fromEntries(names.map((name) => [name, of(name)]));
  colours.terms = Array.from({ length: 9 }, (_, number) => of(`t${number}`));
  return colours;
}

function termSlot(term) { return term > 0 ? ((term - 1) % 8) + 1 : 0; }

/** Where each column is, in units of the zoom: evenly, or by time where that leaves room. */
function positionsOf(byTime) {
  const positions = new Float64Array(COLUMNS + 1);
  if (COLUMNS === 0) return positions;
  const times = Array.from(FIRST_OF_COLUMN, (place) => EVENTS[place].time);
  const gaps = times.slice(1).map((time, place) => time - times[place]).filter((gap) => gap > 0);
  const usual = gaps.length ? gaps.reduce((sum, gap) => sum + gap) / gaps.length : 1;
  for (let column = 1; column <= COLUMNS; column++) {
    const gap = column < COLUMNS ? times[column] - times[column - 1] : 0;
    positions[column] = positions[column - 1] + (byTime ? 0.45 + Math.min(gap / usual, 12) * 2 : 1);
  }
  return positions;
}

class Diagram {
  constructor(canvas, hidden) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.hidden = hidden;
    this.colours = readColours();
    this.positions = positionsOf(false);
    this.zoom = 22;
    this.left = 0;
    this.step = 0;
    this.hover = null;
    this.drawn = 0;
    // What the pointer can meet, of the last drawing.
    this.targets = [];
  }

  // --- Geometry ---

  resize(width, height) {
    const ratio = window.devicePixelRatio || 1;
    const lanes = Math.max(NAMES.length, 1);
    this.laneHeight = Math.min(MAX_LANE, Math.max(MIN_LANE, (height - STRIP - 4) / lanes));
    this.width = width;
    this.height = Math.max(height, STRIP + lanes * this.laneHeight + 4);
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(this.height * ratio);
    this.canvas.style.height = `${this.height}px`;
    this.context.setTransform(ratio, 0, 0, ratio, 0, 0);
  }

  get length() { return this.positions[COLUMNS]; }
  get room() { return this.width - GUTTER; }
  x(column) { return GUTTER + (this.positions[column] + 0.5) * this.zoom - this.left; }
  y(lane) { return STRIP + lane * this.laneHeight + this.laneHeight * 0.46; }
  edge(column) { return this.x(column) - Math.min(this.zoom, (this.positions[column] - (this.positions[column - 1] ?? -1)) * this.zoom) / 2; }

  /** Return the column at a place, by bisection. */
  columnAt(x) {
    const wanted = (x - GUTTER + this.left) / this.zoom - 0.5;
    let low = 0;
    let high = COLUMNS - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((this.positions[middle] + this.positions[middle + 1]) / 2 < wanted) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  clampLeft() { this.left = Math.max(0, Math.min(this.left, this.length * this.zoom - this.room + 40)); }

  zoomTo(zoom, around = GUTTER + this.room / 2) {
    const place = (around - GUTTER + this.left) / this.zoom;
    this.zoom = Math.max(Math.min(MIN_ZOOM, this.fitting()), Math.min(MAX_ZOOM, zoom));
    this.left = place * this.zoom - (around - GUTTER);
    this.clampLeft();
  }

  fitting() { return Math.min(48, (this.room - 30) / Math.max(1, this.length)); }

  /** Bring a column into view, with some room around it. */
  show(column) {
    const x = this.x(column);
    const margin = Math.min(160, this.room / 4);
    if (x < GUTTER + margin) this.left -= GUTTER + margin - x;
    else if (x > this.width - margin) this.left += x - this.width + margin;
    this.clampLeft();
  }

  setScale(byTime) {
    const middle = this.columnAt(GUTTER + this.room / 2);
    this.positions = positionsOf(byTime);
    this.left += this.x(middle) - (GUTTER + this.room / 2);
    this.clampLeft();
  }

  // --- Drawing ---

  draw() {
    const context = this.context;
    this.labels = [];
    this.said = new Set();
    this.targets = [];
    this.drawn = 0;
    context.clearRect(0, 0, this.width, this.height);
    context.font = FONT;
    context.textBaseline = "middle";
    if (COLUMNS > 0) {
      this.first = Math.max(0, this.columnAt(GUTTER) - 1);
      this.last = Math.min(COLUMNS - 1, this.columnAt(this.width) + 1);
    } else {
      this.first = 0;
      this.last = -1;
    }
    this.drawCuts();
    this.drawLanes();
    this.drawSpans();
    this.drawWrites();
    this.drawMessages();
    this.drawCommits();
    this.drawMarks();
    this.drawViolations();
    this.drawFuture();
    this.drawStrip();
    this.drawGutter();
  }

  inView(start, end) { return end >= this.first && start <= this.last; }

  /** Write a text if no other is in its way; return whether it was. */
  label(text, x, y, colour, { align = "left", halo = true, force = false } = {}) {
    const context = this.context;
    const width = context.measureText(text).width;
    const left = align === "center" ? x - width / 2 : x;
    const box = [left - 2, y - 6, left + width + 2, y + 6];
    const meets = (other) => box[0] < other[2] && other[0] < box[2] && box[1] < other[3] && other[1] < box[3];
    if (!force && this.labels.some(meets)) return false;
    this.labels.push(box);
    context.textAlign = "left";
    if (halo) {
      context.lineWidth = 3.5;
      context.lineJoin = "round";
      context.strokeStyle = this.colours.paper;
      context.setLineDash([]);
      context.strokeText(text, left, y);
    }
    context.fillStyle = colour;
    context.fillText(text, left, y);
    return true;
  }

  line(x1, y1, x2, y2, colour, width = 1, dash = []) {
    const context = this.context;
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.setLineDash(dash);
    context.beginPath();
    context.moveTo(x1, y1);
    context.lineTo(x2, y2);
    context.stroke();
  }

  cross(x, y, size, colour, width = 1.8) {
    this.line(x - size, y - size, x + size, y + size, colour, width);
    this.line(x - size, y + size, x + size, y - size, colour, width);
  }

  drawCuts() {
    const context = this.context;
    for (const cut of CUTS) {
      if (!this.inView(cut.start, cut.end)) continue;
      const start = Math.max(GUTTER, this.edge(cut.start));
      const end = Math.min(this.width, cut.end >= COLUMNS ? this.x(COLUMNS - 1) + this.zoom / 2 : this.edge(cut.end));
      context.fillStyle = this.colours.cut;
      context.fillRect(start, STRIP, end - start, this.height);
    }
  }

  drawLanes() {
    NAMES.forEach((_, lane) => {
      const top = STRIP + lane * this.laneHeight;
      if (lane > 0) this.line(GUTTER, top, this.width, top, this.colours.faint);
    });
  }

  drawSpans() {
    SPANS.forEach((spans, lane) => {
      const y = this.y(lane);
      for (const span of spans) {
        if (!this.inView(span.start, span.end)) continue;
        const x1 = Math.max(GUTTER - 20, this.edge(span.start));
        const x2 = Math.min(this.width + 20, span.end >= COLUMNS ? this.x(COLUMNS - 1) + this.zoom / 2 : this.edge(span.end));
        this.drawBand(span, x1, x2, y);
        const text = span.role === "down" ? "down" : `T${span.term} ${span.role.replace("_", "-")}${span.paused ? ", paused" : ""}`;
        const shortText = span.role === "down" ? "" : `T${span.term}`;
        // A long span keeps its name in view.
        const at = Math.max(x1 + 2, GUTTER + 4);
        for (const some of [text, shortText]) {
          if (some && this.context.measureText(some).width < x2 - at + (some === shortText ? 4 : 0)) {
            const colour = span.role === "down" ? this.colours.dim : this.colours.ink;
            this.label(some, at, y + TITLE_ROW, colour);
            break;
          }
        }
      }
    });
  }

  drawBand(span, x1, x2, y) {
    const context = this.context;
    const colour = this.colours.terms[termSlot(span.term)];
    if (span.role === "down") {
      this.line(x1, y, x2, y, this.colours.dim, 1.5, [1.5, 5]);
      return;
    }
    const half = BAND[span.role] ?? 3;
    context.fillStyle = colour;
    context.globalAlpha = { leader: 1, follower: 0.75, candidate: 0.3, pre_candidate: 0.15 }[span.role] ?? 0.5;
    context.fillRect(x1, y - half, x2 - x1, 2 * half);
    context.globalAlpha = 1;
    if (span.role === "candidate") this.hatch(x1, x2, y, half, colour, 5);
    if (span.role === "candidate" || span.role === "pre_candidate") {
      context.strokeStyle = colour;
      context.lineWidth = 1.2;
      context.setLineDash(span.role === "pre_candidate" ? [3, 3] : []);
      context.strokeRect(x1, y - half, x2 - x1, 2 * half);
    }
    if (span.paused) this.hatch(x1, x2, y, 12, this.colours.dim, 9);
  }

  hatch(x1, x2, y, half, colour, gap) {
    const context = this.context;
    context.save();
    context.beginPath();
    context.rect(x1, y - half, x2 - x1, 2 * half);
    context.clip();
    const from = Math.max(x1, GUTTER) - ((Math.max(x1, GUTTER) - x1) % gap);
    for (let x = from - 2 * half; x < Math.min(x2, this.width); x += gap) {
      this.line(x, y + half, x + 2 * half, y - half, colour, 1.4);
    }
    context.restore();
  }

  drawOneWrite(write, x1, x2, y) {
    const context = this.context;
    const colour = this.colours.soft;
    this.line(x1, y, x2, y, colour, 1.5, write.outcome === "durable" ? [] : [3, 3]);
    context.strokeStyle = colour;
    context.setLineDash([]);
    context.lineWidth = 1.5;
    context.fillStyle = this.colours.paper;
    context.fillRect(x1 - 2.5, y - 2.5, 5, 5);
    context.strokeRect(x1 - 2.5, y - 2.5, 5, 5);
    if (write.outcome === "durable") {
      context.fillStyle = colour;
      context.fillRect(x2 - 3, y - 3, 6, 6);
    } else if (write.outcome === "failed") this.cross(x2, y, 3.5, this.colours.ink);
  }

  drawWrites() {
    for (const write of WRITES) {
      if (!this.inView(write.start, write.end)) continue;
      this.drawn += 1;
      const y = this.y(write.lane) + DISK_ROW;
      const x1 = this.x(write.start);
      const x2 = write.end >= COLUMNS ? this.x(COLUMNS - 1) + this.zoom / 2 : this.x(write.end);
      this.drawOneWrite(write, x1, x2, y);
      const ending = { durable: "on disk", failed: write.why, open: "not on disk yet" }[write.outcome];
      this.targets.push({ x1, y1: y, x2, y2: y, title: `${NAMES[write.lane]} writes ${write.text}`, text: ending, place: write.place });
    }
  }

  drawMessages() {
    const current = this.step > 0 ? EVENTS[this.step - 1] : null;
    for (const message of MESSAGES) {
      const last = message.ends.length ? message.ends[message.ends.length - 1].column : message.column + 2;
      if (this.hidden.has(message.kind) || !this.inView(message.column, last)) continue;
      const isCurrent = current !== null && current.message === message.event.message;
      const ends = message.ends.length ? message.ends : [null];
      ends.forEach((end, number) => this.drawMessage(message, end, number, isCurrent));
      this.drawn += 1;
    }
  }

  drawMessage(message, end, number, isCurrent) {
    const isLost = end === null || end.event.event === "dropped";
    const x1 = this.x(message.column);
    const direction = message.to > message.from ? 1 : -1;
    const y1 = this.y(message.from) + direction * 9;
    const target = this.y(message.to) - direction * 9;
    let x2 = end === null ? x1 + Math.max(10, this.zoom * 0.7) : this.x(end.column);
    let y2 = target;
    if (isLost) {
      // Lost between two lanes, where its end hides nothing.
      const [middle] = this.labelRows(message.from, message.to);
      const reach = ((end === null ? (y1 + middle) / 2 : middle) - y1) / (target - y1);
      y2 = y1 + (target - y1) * reach;
      if (end !== null) x2 = x1 + (x2 - x1) * reach;
    }
    const isQuiet = message.kind === "heartbeat" || (message.kind === "answer" && message.label === "");
    const colour = this.colours.terms[termSlot(message.event.term)];
    const context = this.context;
    context.globalAlpha = isCurrent ? 1 : isLost ? 0.55 : isQuiet ? 0.6 : 0.95;
    const width = isCurrent ? 3 : message.kind === "append" || message.kind === "snapshot" ? 2 : 1.2;
    const dash = number > 0 ? [1.5, 3] : message.isAnswer ? [5, 3] : [];
    this.line(x1, y1, x2, y2, colour, width, dash);
    if (!isLost) this.arrowHead(x1, y1, x2, y2, colour, isCurrent ? 9 : 6.5);
    else if (end === null) {
      context.setLineDash([]);
      context.fillStyle = this.colours.paper;
      context.beginPath();
      context.arc(x2, y2, 2.5, 0, 7);
      context.fill();
      context.stroke();
    }
    context.globalAlpha = 1;
    if (isLost && end !== null) this.cross(x2, y2, 4, this.colours.ink);
    const what = end === null ? "has not arrived" : isLost ? `lost: ${end.event.reason}` : `arrives${end.event.is_repeat ? " once more" : ""}`;
    this.targets.push({ x1, y1, x2, y2, message, text: what, place: end === null ? message.place : end.place });
    // What a node tells everybody at once is written once.
    const said = `${message.column} ${message.from} ${message.label}`;
    if (message.label && number === 0 && (isCurrent || (this.zoom >= 13 && !this.said.has(said)))) {
      this.said.add(said);
      for (const y of this.labelRows(message.from, message.to)) {
        const part = (y - y1) / (y2 - y1);
        if (part < 0.05 || part > 0.95) continue;
        if (this.label(message.label, x1 + (x2 - x1) * part, y, colour, { align: "center" })) break;
      }
    }
  }

  /** Where the label of an arrow may stand: between lanes, where it hides nothing, nearest to its sender first. */
  labelRows(from, to) {
    const step = Math.sign(to - from);
    const rows = [];
    for (let lane = from; lane !== to; lane += step) {
      const middle = (this.y(Math.min(lane, lane + step)) + DISK_ROW + this.y(Math.max(lane, lane + step)) + TITLE_ROW) / 2;
      const spread = Math.min(26, this.laneHeight / 6);
      rows.push(middle, middle - spread / 2, middle + spread / 2, middle - spread, middle + spread);
    }
    return rows;
  }

  arrowHead(x1, y1, x2, y2, colour, size) {
    const context = this.context;
    const angle = Math.atan2(y2 - y1, x2 - x1);
    context.fillStyle = colour;
    context.beginPath();
    context.moveTo(x2, y2);
    context.lineTo(x2 - size * Math.cos(angle - 0.38), y2 - size * Math.sin(angle - 0.38));
    context.lineTo(x2 - size * Math.cos(angle + 0.38), y2 - size * Math.sin(angle + 0.38));
    context.closePath();
    context.fill();
  }

  drawOneCommit(x, y) {
    const context = this.context;
    context.fillStyle = this.colours.ink;
    context.beginPath();
    context.moveTo(x, y - 9);
    context.lineTo(x - 4, y - 3);
    context.lineTo(x + 4, y - 3);
    context.fill();
  }

  drawCommits() {
    for (const { event, column, lane } of COMMITS) {
      if (!this.inView(column, column)) continue;
      const x = this.x(column);
      const y = this.y(lane) + COMMIT_ROW;
      this.drawOneCommit(x, y);
      if (this.zoom >= 9) this.label(`${event.commit_index}`, x + 6, y - 4, this.colours.ink);
    }
  }

  drawMarks() {
    for (const { event, column, lane } of MARKS) {
      if (this.inView(column, column)) this.drawOneMark(event, this.x(column), this.y(lane));
    }
  }

  drawOneMark(event, x, y) {
    const context = this.context;
    const ink = this.colours.ink;
    context.setLineDash([]);
    context.fillStyle = this.colours.paper;
    context.strokeStyle = ink;
    context.lineWidth = 1.6;
    context.beginPath();
    switch (event.event) {
      case "crashed":
        context.arc(x, y, 8, 0, 7);
        context.fill();
        context.stroke();
        if (event.is_orderly) context.fillRect(x - 3, y - 3, 6, 6);
        else this.cross(x, y, 4, ink, 2);
        break;
      case "started":
        context.arc(x, y, 8, 0, 7);
        context.fill();
        context.stroke();
        context.fillStyle = ink;
        context.beginPath();
        context.moveTo(x - 2.5, y - 4.5);
        context.lineTo(x + 5, y);
        context.lineTo(x - 2.5, y + 4.5);
        context.fill();
        break;
      case "paused": case "resumed":
        this.line(x - 2.5, y - 11, x - 2.5, y + 11, ink, 2);
        this.line(x + 2.5, y - 11, x + 2.5, y + 11, ink, event.event === "paused" ? 2 : 1);
        break;
      default:
        // A client: a proposal points down to the lane, a read is a ring.
        if (event.event === "proposed") {
          context.moveTo(x, y - 10);
          context.lineTo(x - 4.5, y - 18);
          context.lineTo(x + 4.5, y - 18);
          context.closePath();
        } else context.arc(x, y - 14, 3.5, 0, 7);
        context.fill();
        context.stroke();
    }
  }

  drawViolations() {
    VIOLATIONS.forEach(({ event, column, lane, place }) => {
      if (!this.inView(column, column)) return;
      const x = this.x(column);
      this.context.globalAlpha = 0.25;
      this.line(x, STRIP, x, this.height, this.colours.bad, 9);
      this.context.globalAlpha = 1;
      this.line(x, STRIP - 8, x, this.height, this.colours.bad, 2);
      if (lane >= 0) {
        const context = this.context;
        context.strokeStyle = this.colours.bad;
        context.lineWidth = 2.5;
        context.setLineDash([]);
        context.beginPath();
        context.arc(x, this.y(lane), 14, 0, 7);
        context.stroke();
      }
      this.targets.push({ x1: x, y1: STRIP, x2: x, y2: this.height, title: event.name, text: event.text, place });
    });
  }

  drawFuture() {
    if (COLUMNS === 0) return;
    const context = this.context;
    const now = this.step > 0 ? this.x(COLUMN[this.step - 1]) : this.edge(0);
    const edge = Math.max(GUTTER, now + Math.min(this.zoom / 2, 12));
    if (this.step < EVENTS.length && edge < this.width) {
      context.fillStyle = this.colours.fade;
      context.fillRect(edge, STRIP, this.width - edge, this.height);
    }
    if (!VIOLATIONS.some(({ place }) => place === this.step - 1)) {
      this.line(now, STRIP - 10, now, this.height, this.colours.accent, 1.5);
    }
  }

  drawStrip() {
    const context = this.context;
    const { panel, line, soft, dim, bad, accent } = this.colours;
    context.fillStyle = panel;
    context.fillRect(0, 0, this.width, STRIP);
    this.line(0, STRIP - 0.5, this.width, STRIP - 0.5, line);
    this.labels = [];
    for (const { event, column } of VIOLATIONS) {
      if (!this.inView(column, column)) continue;
      const width = context.measureText(event.name).width + 16;
      const x = Math.max(GUTTER, Math.min(this.x(column) - width / 2, this.width - width));
      context.fillStyle = bad;
      context.beginPath();
      context.roundRect(x, 3, width, 17, 4);
      context.fill();
      this.label(event.name, x + 8, 12, this.colours.paper, { halo: false, force: true });
    }
    for (const cut of CUTS) {
      if (!this.inView(cut.start, cut.end)) continue;
      const start = Math.max(GUTTER, this.edge(cut.start));
      const end = Math.min(this.width, cut.end >= COLUMNS ? this.x(COLUMNS - 1) + this.zoom / 2 : this.edge(cut.end));
      context.fillStyle = dim;
      context.fillRect(start, STRIP - 4, end - start, 3);
      const text = `cut ${cut.event.groups.map((group) => group.join(" ") || "-").join(" | ")}`;
      if (context.measureText(text).width < end - start - 4) this.label(text, start + 3, STRIP - 12, soft);
    }
    const ends = [this.width];
    const notes = NOTES.filter(({ column }) => this.inView(column, column));
    for (let number = notes.length - 1; number >= 0; number--) {
      const { event, column } = notes[number];
      const x = this.edge(column);
      if (x < GUTTER - 200) continue;
      this.line(x, 2, x, 22, line);
      const text = this.fittingText(event.text, Math.min(ends[ends.length - 1] - x - 8, 240));
      if (text) this.label(text, x + 4, 12, soft);
      ends.push(x);
    }
    this.drawTimes();
    if (COLUMNS > 0) {
      const now = this.step > 0 ? this.x(COLUMN[this.step - 1]) : this.edge(0);
      context.fillStyle = accent;
      context.beginPath();
      context.moveTo(now, STRIP + 2);
      context.lineTo(now - 6, STRIP - 8);
      context.lineTo(now + 6, STRIP - 8);
      context.fill();
    }
  }

  /** Return as much of a text as there is room for; nothing if that says nothing. */
  fittingText(text, room) {
    const context = this.context;
    if (context.measureText(text).width <= room) return text;
    let end = Math.floor(room / 6);
    while (end > 3 && context.measureText(`${text.slice(0, end)}…`).width > room) end -= 1;
    return end > 3 ? `${text.slice(0, end)}…` : "";
  }

  drawTimes() {
    let free = GUTTER;
    for (let column = this.first; column <= this.last; column++) {
      const time = EVENTS[FIRST_OF_COLUMN[column]].time;
      const isNew = column === 0 || time !== EVENTS[FIRST_OF_COLUMN[column - 1]].time;
      const x = this.x(column);
      if (!isNew || x < free) continue;
      const text = `${time.toFixed(3)} s`;
      if (this.label(text, x, STRIP - 12, this.colours.dim)) free = x + this.context.measureText(text).width + 26;
    }
  }

  drawGutter() {
    const context = this.context;
    context.fillStyle = this.colours.panel;
    context.fillRect(0, 0, GUTTER, this.height);
    this.line(GUTTER - 0.5, 0, GUTTER - 0.5, this.height, this.colours.line);
    NAMES.forEach((name, lane) => {
      context.textAlign = "left";
      context.fillStyle = this.colours.ink;
      context.font = `600 13px ${FONT.slice(5)}`;
      context.fillText(this.fittingText(name, GUTTER - 14), 10, this.y(lane) - 3);
      context.font = FONT;
      context.fillStyle = this.colours.dim;
      context.fillText("commit", 10, this.y(lane) + COMMIT_ROW - 4);
      context.fillText("disk", 10, this.y(lane) + DISK_ROW + 3);
    });
  }

  // --- The pointer ---

  /** Return what is at a place, or null. */
  hit(x, y) {
    let best = null;
    let nearest = 7;
    for (const target of this.targets) {
      const distance = distanceTo(target, x, y);
      if (distance < nearest) [best, nearest] = [target, distance];
    }
    return best;
  }

  /** Return the step to go to for a click: the end of what is there, or the last event of that column and node. */
  stepAt(x, y) {
    const target = this.hit(x, y);
    if (target && target.place >= 0) return target.place + 1;
    if (COLUMNS === 0) return 0;
    return LAST_OF_COLUMN[this.columnAt(x)] + 1;
  }
}

function distanceTo({ x1, y1, x2, y2 }, x, y) {
  const [dx, dy] = [x2 - x1, y2 - y1];
  const length = dx * dx + dy * dy;
  const part = length === 0 ? 0 : Math.max(0, Math.min(1, ((x - x1) * dx + (y - y1) * dy) / length));
  return Math.hypot(x - x1 - part * dx, y - y1 - part * dy);
}

/** The whole run in a strip: who led which term, who was down, and where the property broke. */
function drawOverview(canvas, colours, diagram) {
  const ratio = window.devicePixelRatio || 1;
  const { clientWidth: width, clientHeight: height } = canvas;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  context.fillStyle = colours.faint;
  context.fillRect(0, 0, width, height);
  if (COLUMNS === 0) return;
  // By events, as the slider is, not by columns.
  const x = (column) => ((column >= COLUMNS ? EVENTS.length : FIRST_OF_COLUMN[column]) / EVENTS.length) * width;
  const row = height / NAMES.length;
  SPANS.forEach((spans, lane) => {
    for (const span of spans) {
      if (span.role === "down") continue;
      context.globalAlpha = span.role === "leader" ? 1 : 0.28;
      context.fillStyle = colours.terms[termSlot(span.term)];
      context.fillRect(x(span.start), lane * row + 0.5, x(span.end) - x(span.start), row - 1);
    }
  });
  context.globalAlpha = 1;
  for (const { place } of VIOLATIONS) {
    context.fillStyle = colours.bad;
    context.fillRect(((place + 1) / EVENTS.length) * width - 1.5, 0, 3, height);
  }
  context.strokeStyle = colours.soft;
  context.lineWidth = 1.5;
  const [first, last] = [x(diagram.columnAt(GUTTER)), x(diagram.columnAt(diagram.width) + 1)];
  context.strokeRect(first + 0.75, 0.75, Math.max(3, last - first - 1.5), height - 1.5);
}
