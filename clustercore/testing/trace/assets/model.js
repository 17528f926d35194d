// From the events to what is drawn: columns, lanes, messages, writes, marks; and to each node's state at any step.
//
// Step k is the moment after the first k events; step 0 is before everything. A column of the diagram holds one input
// of one node and all that came of it at once, so that cause and effect stand above each other.

const DATA = JSON.parse(document.getElementById("trace").textContent);
const EVENTS = DATA.events;
const CHECKPOINT_EVERY = 256;

// --- The state of the nodes ---

const OUTCOME_OF_CRASH = "lost in the crash";

function freshNode() {
  return {
    up: false, paused: false, role: "", term: 0, vote: null, leader: null, commit: 0, applied: 0,
    baseIndex: 0, baseTerm: 0, log: [],
    // What is on the disk: entries by index, and what the newest stored snapshot covers.
    disk: { entries: new Map(), snapshot: 0, snapshotTerm: 0, term: 0, vote: null },
    writes: new Map(), voters: [], learners: [], oldVoters: [],
  };
}

function copyNode(node) {
  return {
    ...node, log: node.log.slice(), writes: new Map(node.writes),
    disk: { ...node.disk, entries: new Map(node.disk.entries) },
  };
}

function writeDurable(disk, write) {
  if (!write) return;
  if (write.event === "write_hard_state") {
    disk.term = write.term;
    disk.vote = write.voted_for;
  } else if (write.event === "write_entries") {
    const first = write.entries[0][0];
    for (const index of [...disk.entries.keys()]) if (index >= first) disk.entries.delete(index);
    for (const entry of write.entries) disk.entries.set(entry[0], entry);
  } else if (write.event === "write_snapshot" && write.last_included_index > disk.snapshot) {
    const from = write.keep_from === null ? Infinity : write.keep_from;
    for (const index of [...disk.entries.keys()]) if (index < from) disk.entries.delete(index);
    disk.snapshot = write.last_included_index;
    disk.snapshotTerm = write.last_included_term;
  }
}

const APPLY = {
  started(node, event) {
    const entries = event.entries || [];
    Object.assign(node, freshNode(), {
      up: true, role: "follower", term: event.term, vote: event.voted_for, commit: event.commit_index,
      applied: event.commit_index, baseIndex: event.base_index, baseTerm: event.base_term, log: entries.slice(),
      voters: node.voters, learners: node.learners, oldVoters: node.oldVoters,
    });
    Object.assign(node.disk, {
      entries: new Map(entries.map((entry) => [entry[0], entry])), term: event.term, vote: event.voted_for,
      snapshot: event.base_index, snapshotTerm: event.base_term,
    });
  },
  crashed(node) {
    // What is left of a node that is down is its disk.
    const disk = node.disk;
    Object.assign(node, {
      up: false, paused: false, role: "down", leader: null, term: disk.term, vote: disk.vote, commit: 0, applied: 0,
      baseIndex: disk.snapshot, baseTerm: disk.snapshotTerm, writes: new Map(),
      log: [...disk.entries.values()].filter((entry) => entry[0] > disk.snapshot).sort((a, b) => a[0] - b[0]),
    });
  },
  paused(node) { node.paused = true; },
  resumed(node) { node.paused = false; },
  office(node, event) {
    Object.assign(node, { role: event.role, term: event.term, vote: event.voted_for, leader: event.leader_id });
  },
  appended(node, event) { node.log.push(...event.entries); },
  truncated(node, event) { node.log = node.log.filter((entry) => entry[0] < event.from_index); },
  compacted(node, event) {
    Object.assign(node, { baseIndex: event.base_index, baseTerm: event.base_term });
    node.log = node.log.filter((entry) => entry[0] > event.base_index);
  },
  committed(node, event) { node.commit = event.commit_index; },
  applied(node, event) { node.applied = event.last_applied; },
  configured(node, event) {
    Object.assign(node, {
      voters: event.voters, learners: event.learners || [], oldVoters: event.old_voters || [],
    });
  },
  write_durable(node, event) {
    writeDurable(node.disk, node.writes.get(event.write));
    node.writes.delete(event.write);
  },
  write_failed(node, event) { node.writes.delete(event.write); },
  write_hard_state(node, event) { node.writes.set(event.write, event); },
  write_entries(node, event) { node.writes.set(event.write, event); },
  write_snapshot(node, event) { node.writes.set(event.write, event); },
};

/** Return the nodes of a trace, in order: those it names, then any other that acts in it. */
function namesOf(data) {
  const names = new Set(data.nodes);
  for (const event of data.events) {
    if (event.node !== null) names.add(event.node);
    if (event.to) names.add(event.to);
  }
  return [...names];
}

const NAMES = namesOf(DATA);
const LANE = new Map(NAMES.map((name, place) => [name, place]));

class States {
  constructor() {
    this.step = 0;
    this.nodes = new Map(NAMES.map((name) => [name, freshNode()]));
    this.checkpoints = [this._copy()];
  }

  _copy() { return new Map([...this.nodes].map(([name, node]) => [name, copyNode(node)])); }

  /** Return the nodes after the first `step` events. They are good until the next call. */
  at(step) {
    const near = Math.min(Math.floor(step / CHECKPOINT_EVERY), this.checkpoints.length - 1);
    if (step < this.step || near * CHECKPOINT_EVERY > this.step) {
      this.nodes = this.checkpoints[near];
      this.nodes = this._copy();
      this.step = near * CHECKPOINT_EVERY;
    }
    while (this.step < step) {
      const event = EVENTS[this.step];
      const change = APPLY[event.event];
      if (change && event.node !== null) change(this.nodes.get(event.node), event);
      this.step += 1;
      if (this.step === this.checkpoints.length * CHECKPOINT_EVERY) this.checkpoints.push(this._copy());
    }
    return this.nodes;
  }
}

/** Say whether an entry a node holds in memory is on its disk. */
function isDurable(node, entry) {
  if (entry[0] <= node.disk.snapshot) return true;
  const stored = node.disk.entries.get(entry[0]);
  return stored !== undefined && stored[1] === entry[1];
}

// --- Columns ---

// What comes of an input. Such an event stays in the column of the one before it, if that is at the same node and time.
const CONSEQUENCES = new Set([
  "sent", "office", "appended", "truncated", "compacted", "committed", "applied", "configured", "write_hard_state",
  "write_entries", "write_snapshot", "write_other", "read_answered", "read_denied", "proposed", "proposal_refused",
]);

function columnsOf(events) {
  const columns = new Int32Array(events.length);
  let column = -1;
  let isOver = true;
  events.forEach((event, place) => {
    if (event.event === "noted") {
      // A note stands above what follows it.
      columns[place] = column + 1;
      isOver = true;
      return;
    }
    const before = events[place - 1];
    const follows = !isOver && before.time === event.time && (
      (before.node === event.node && CONSEQUENCES.has(event.event)) ||
      (before.node === event.node && event.event === "write_durable" && before.event === "write_durable") ||
      (event.event === "dropped" && before.event === "dropped") ||
      event.event === "violated"
    );
    if (!follows) column += 1;
    isOver = false;
    columns[place] = column;
  });
  return columns;
}

const COLUMN = columnsOf(EVENTS);
const COLUMNS = EVENTS.length ? COLUMN[EVENTS.length - 1] + 1 : 0;
const FIRST_OF_COLUMN = new Int32Array(COLUMNS).fill(-1);
const LAST_OF_COLUMN = new Int32Array(COLUMNS);
EVENTS.forEach((_, place) => {
  if (FIRST_OF_COLUMN[COLUMN[place]] < 0) FIRST_OF_COLUMN[COLUMN[place]] = place;
  LAST_OF_COLUMN[COLUMN[place]] = place;
});

// --- Messages ---

const KINDS = [
  ["append", "entries"], ["heartbeat", "heartbeats"], ["answer", "answers to a leader"], ["vote", "votes"],
  ["prevote", "pre-votes"], ["snapshot", "snapshots"], ["transfer", "transfer"], ["other", "other messages"],
];

function kindOf(event) {
  const what = event.what;
  const detail = event.detail || {};
  if (what === "AppendEntriesRequest") return detail.entries ? "append" : "heartbeat";
  if (what === "AppendEntriesResponse") return "answer";
  if (what.startsWith("RequestVote")) return "vote";
  if (what.startsWith("PreVote")) return "prevote";
  if (what.startsWith("InstallSnapshot")) return "snapshot";
  if (what.startsWith("TimeoutNow")) return "transfer";
  return "other";
}

/** What is written at an arrow. */
function labelOf(event) {
  const detail = event.detail || {};
  switch (event.what) {
    case "AppendEntriesRequest": return detail.entries ? `+${shortEntries(detail.entries)}` : "";
    case "AppendEntriesResponse": return detail.success ? `ok ${detail.match_index}` : "no";
    case "RequestVoteRequest": return `vote T${event.term}?`;
    case "PreVoteRequest": return `pre-vote T${event.term}?`;
    case "RequestVoteResponse": return detail.vote_granted ? "vote" : "no vote";
    case "PreVoteResponse": return detail.vote_granted ? "would vote" : "would not";
    case "InstallSnapshotRequest": return `snapshot ${detail.last_included_index ?? ""}`;
    case "InstallSnapshotResponse": return `has ${detail.match_index ?? ""}`;
    case "TimeoutNowRequest": return "stand now";
    default: return "";
  }
}

function shortEntries(text) {
  const entries = text.split(" ");
  return entries.length < 3 ? text : `${entries[0]} .. ${entries[entries.length - 1]}`;
}

function messagesOf(events) {
  const byId = new Map();
  events.forEach((event, place) => {
    if (event.event === "sent") {
      byId.set(event.message, {
        event, place, column: COLUMN[place], from: LANE.get(event.node), to: LANE.get(event.to), kind: kindOf(event),
        isAnswer: event.what.endsWith("Response"), label: labelOf(event), ends: [],
      });
    } else if (event.event === "delivered" || event.event === "dropped") {
      byId.get(event.message)?.ends.push({ event, place, column: COLUMN[place] });
    }
  });
  return byId;
}

const MESSAGE = messagesOf(EVENTS);
const MESSAGES = [...MESSAGE.values()];

// --- Lanes: roles, writes, marks ---

/** Cut a lane where its node's role, term or life changes. */
function spansOf(events) {
  const spans = NAMES.map(() => []);
  const now = NAMES.map(() => null);
  const change = (lane, column, next) => {
    if (now[lane]) now[lane].end = column;
    now[lane] = { ...next, start: column, end: COLUMNS };
    spans[lane].push(now[lane]);
  };
  events.forEach((event, place) => {
    if (event.node === null) return;
    const lane = LANE.get(event.node);
    const column = COLUMN[place];
    const { role = "down", term = 0, paused = false } = now[lane] || {};
    if (event.event === "started") change(lane, column, { role: "follower", term: event.term });
    else if (event.event === "crashed") change(lane, column, { role: "down", term });
    else if (event.event === "paused") change(lane, column, { role, term, paused: true });
    else if (event.event === "resumed") change(lane, column, { role, term, paused: false });
    else if (event.event === "office" && (event.role !== role || event.term !== term)) {
      change(lane, column, { role: event.role, term: event.term, paused });
    }
  });
  return spans.map((lane) => lane.filter((span) => span.end > span.start));
}

function describeWrite(event) {
  switch (event.event) {
    case "write_hard_state":
      return `term ${event.term}, ${event.voted_for === null ? "no vote" : `vote for ${event.voted_for}`}`;
    case "write_entries": return `entries ${shortEntries(event.entries.map((e) => `${e[0]}:${e[1]}`).join(" "))}`;
    case "write_snapshot": return `snapshot up to ${event.last_included_index}:${event.last_included_term}`;
    default: return event.what;
  }
}

/** The write that an event is the end of. */
const ENDED = new Map();

function writesOf(events) {
  const writes = [];
  const open = NAMES.map(() => new Map());
  events.forEach((event, place) => {
    if (event.node === null) return;
    const lane = LANE.get(event.node);
    const column = COLUMN[place];
    const finish = (number, outcome, why) => {
      const write = open[lane].get(number);
      if (!write) return;
      Object.assign(write, { end: column, outcome, why });
      open[lane].delete(number);
    };
    if (event.event.startsWith("write_") && "write" in event) {
      ENDED.set(event, open[lane].get(event.write));
      if (event.event === "write_durable") finish(event.write, "durable", "");
      else if (event.event === "write_failed") finish(event.write, "failed", event.reason);
      else {
        const write = { event, place, lane, start: column, end: COLUMNS, outcome: "open", why: "", text: describeWrite(event) };
        open[lane].set(event.write, write);
        writes.push(write);
      }
    } else if (event.event === "crashed") {
      for (const number of [...open[lane].keys()]) finish(number, "failed", OUTCOME_OF_CRASH);
    }
  });
  return writes;
}

const MARKED = new Set(["started", "crashed", "paused", "resumed", "proposed", "read_asked"]);

const SPANS = spansOf(EVENTS);
const WRITES = writesOf(EVENTS);
const MARKS = [];
const COMMITS = [];
const NOTES = [];
const VIOLATIONS = [];
const CUTS = [];
EVENTS.forEach((event, place) => {
  const at = { event, place, column: COLUMN[place], lane: event.node === null ? -1 : LANE.get(event.node) };
  if (MARKED.has(event.event)) MARKS.push(at);
  else if (event.event === "committed") COMMITS.push(at);
  else if (event.event === "noted") NOTES.push(at);
  else if (event.event === "violated") VIOLATIONS.push(at);
  else if (event.event === "partitioned" || event.event === "healed") {
    const last = CUTS[CUTS.length - 1];
    if (last && last.end === COLUMNS) last.end = at.column;
    if (event.event === "partitioned") CUTS.push({ ...at, start: at.column, end: COLUMNS });
  }
});

// --- Words ---

/** Tell an event in a few words, without its node. */
function describe(event) {
  switch (event.event) {
    case "sent": return `sends ${nameOf(event)} to ${event.to}`;
    case "delivered": {
      const sent = MESSAGE.get(event.message);
      return `${event.is_repeat ? "gets once more" : "gets"} ${sent ? nameOf(sent.event) : "a message"} from ${event.sender}`;
    }
    case "dropped": {
      const sent = MESSAGE.get(event.message);
      return `misses ${sent ? `${nameOf(sent.event)} from ${sent.event.node}` : "a message"}: ${event.reason}`;
    }
    case "started": return `starts in term ${event.term} with ${plural(event.base_index + (event.entries || []).length, "entry", "entries")}`;
    case "crashed": return event.is_orderly ? "is stopped" : "crashes";
    case "paused": return "is paused";
    case "resumed": return "goes on";
    case "office": {
      const whom = event.role === "follower" && event.leader_id ? ` of ${event.leader_id}` : "";
      return `is ${event.role.replace("_", "-")}${whom} in term ${event.term}${event.voted_for ? `, voted for ${event.voted_for}` : ""}`;
    }
    case "appended": return `appends ${shortEntries(event.entries.map((e) => `${e[0]}:${e[1]}`).join(" "))}`;
    case "truncated": return `drops its entries from ${event.from_index} on`;
    case "compacted": return `drops its entries up to ${event.base_index}`;
    case "committed": return `knows ${event.commit_index} committed`;
    case "applied": return `has applied ${event.last_applied}`;
    case "configured": return `counts ${event.voters.join(" ")}${event.old_voters ? `, and ${event.old_voters.join(" ")} as before` : ""}`;
    case "write_hard_state": case "write_entries": case "write_snapshot": case "write_other":
      return `writes ${describeWrite(event)}`;
    case "write_durable": return `has ${writtenBy(event)} on disk`;
    case "write_failed": return `fails to write ${writtenBy(event)}: ${event.reason}`;
    case "proposed": return `takes a proposal as ${event.first_index}:${event.term}`;
    case "proposal_refused": return `refuses a proposal${event.leader_id ? `; ${event.leader_id} leads` : ""}`;
    case "read_asked": return `is asked to read (${event.reads.join(" ")})`;
    case "read_answered": return `lets ${event.reads.join(" ")} read at ${event.read_index}`;
    case "read_denied": return `refuses to let ${event.reads.join(" ")} read`;
    case "partitioned": return `cut: ${event.groups.map((group) => group.join(" ") || "nobody").join(" | ")}`;
    case "healed": return "everybody reaches everybody";
    case "noted": return event.text;
    case "violated": return `broken: ${event.name}`;
    default: return event.event;
  }
}

function nameOf(sent) {
  const label = labelOf(sent);
  const name = sent.what === "AppendEntriesRequest" && !label ? "heartbeat" : sent.what.replace(/Request$/, "");
  return `${name.replace(/Response$/, " answer")}${label ? ` (${label})` : ""}`;
}

function writtenBy(event) { return ENDED.get(event)?.text ?? `write ${event.write}`; }

function plural(count, one, many) { return `${count} ${count === 1 ? one : many}`; }
