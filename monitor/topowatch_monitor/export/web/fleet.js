// The runs in a table: those that match the filter, and those of one group where it is looked at.
const ROWS_AT_ONCE = 100, ROWS_A_TURN = 25, GROUPS_SHOWN = 8, VERDICTS = ["unstable", "lost", "warning", "starting", "healthy"];
let focus = {};   // what is looked at: {group, tenant, run}, or nothing
let runs = [], groups = [], serverNow = 0, fetchedAt = 0, failedSince = 0, fault = "", late = [], most = ROWS_AT_ONCE, sort = {column: 0, down: false}, only = null;
const clock = () => serverNow + (stored ? 0 : (performance.now() - fetchedAt) / 1000);
const rank = (run) => VERDICTS.indexOf(run.verdict) * 2 + (run.state === "live" ? 0 : 1);

const classOf = (run) => run.path_class ?? {abstained: true};
// an outlier is told like a flag, so that its verdict has a reason
const flagsOf = (run) => !classOf(run).outlier ? run.flags : [...run.flags, {detector: "path_outlier", severity: "warning",
  since_step: null, reason: classOf(run).reason || "takes another route than its siblings"}];

const flagLine = (flag) => {
  const line = make("div", "flag " + (flag.severity === "critical" ? "critical" : "warn"));
  const since = known(flag.since_step) ? " since step " + whole(flag.since_step) : "";
  line.append(make("b", "", words(flag.detector)), make("span", "", since + ": " + flag.reason));
  return line;
};
const lossWord = (run) => !known(run.loss) && run.flags.some((flag) => flag.detector === "non_finite_loss") ? "not finite" : number(run.loss);
const classWord = (run) => {
  const told = classOf(run);
  return told.abstained ? "–" : (known(told.label) ? String(told.label) : "none") + (told.provisional ? " ~" : "");
};

// label, class, sort key, and how a cell is filled; every text goes through textContent
const COLUMNS = [
  ["Verdict", "verdict-cell", rank, (cell, run) => cell.replaceChildren(make("span", "verdict " + run.verdict, run.verdict))],
  ["Group", "group", (run) => run.group, (cell, run) => {
    const anchor = make("a", "", run.group);
    anchor.href = place(run.group, run.tenant);
    cell.replaceChildren(anchor);
  }],
  ["Run", "name", (run) => run.run, (cell, run) => {
    const anchor = make("a", "", run.run);
    anchor.href = place(run.group, run.tenant, run.run);
    cell.replaceChildren(anchor);
    const labels = Object.entries(run.labels).map(([name, value]) => name + "=" + value);
    const state = run.state === "live" ? [] : [run.state];
    const text = [...state, ...labels].join(" · ");
    if (text) cell.append(make("span", "", text));
  }],
  ["Step", "number", (run) => run.step, (cell, run) => { cell.textContent = whole(run.step); }],
  ["Loss", "number", (run) => run.loss, (cell, run) => { cell.textContent = lossWord(run); }],
  ["Path length", "number", (run) => run.path.length, (cell, run) => { cell.textContent = number(run.path.length); }],
  ["H₀", "number", (run) => run.path.h0_total_persistence, (cell, run) => { cell.textContent = number(run.path.h0_total_persistence); }],
  ["H₁", "number", (run) => run.path.h1_total_persistence, (cell, run) => { cell.textContent = number(run.path.h1_total_persistence); }],
  ["Class", "number", (run) => classOf(run).label, (cell, run) => {
    const told = classOf(run);
    cell.textContent = classWord(run);
    cell.title = told.abstained ? told.reason ?? "" : told.provisional ? "The run is live: this may change" : "";
    if (told.outlier) cell.replaceChildren(make("span", "hot", cell.textContent + " !"));
  }],
  ["Flags", "flags", (run) => -flagsOf(run).length, (cell, run) => {
    cell.replaceChildren(...flagsOf(run).map(flagLine));
  }],
  ["Dropped", "number", (run) => run.dropped, (cell, run) => { cell.replaceChildren(make("span", run.dropped ? "hot" : "", whole(run.dropped))); }],
  ["Overhead", "number", (run) => run.overhead_ratio, (cell, run) => { cell.textContent = percent(run.overhead_ratio); }],
  ["Last seen", "number", (run) => -(run.last_received_at ?? 0), (cell, run) => {
    cell.textContent = known(run.last_received_at) ? ago(Math.max(0, clock() - run.last_received_at)) : "–";
    cell.title = known(run.last_received_at) ? new Date(1000 * run.last_received_at).toLocaleString() : "";
  }],
];
const TITLES = {
  "Path length": "Length of the path of the weights since the run began, in sketch distance",
  "H₀": "Sum of the H₀ lifetimes of the latest window of the path: how spread out it is",
  "H₁": "Sum of the H₁ lifetimes of the latest window of the path: how much it loops",
  "Class": "Class of the run's path among its siblings: ~ it may change, ! it is outside",
  "Dropped": "Samples that a full spool dropped before they were sent",
  "Overhead": "Time that the client takes over wall time of training",
};

COLUMNS.forEach(([label, className], index) => {
  const head = make("th", className);
  head.scope = "col";
  const button = make("button", "", label);
  button.type = "button";
  if (TITLES[label]) button.title = TITLES[label];
  button.addEventListener("click", () => {
    sort = {column: index, down: sort.column === index && !sort.down};
    drawRuns();
  });
  head.append(button);
  $("head").append(head);
});
$("more").addEventListener("click", () => { most += ROWS_AT_ONCE; drawRuns(); });
const chips = VERDICTS.map((verdict) => {
  const chip = make("button", "chip");
  chip.type = "button";
  chip.append(make("b", "", "0"), document.createTextNode(verdict));
  chip.addEventListener("click", () => { only = only === verdict ? null : verdict; drawRuns(); });
  $("chips").append(chip);
  return chip;
});

const keyOf = (run) => JSON.stringify([run.tenant, run.group, run.run]);
const byName = new Intl.Collator(undefined, {numeric: true});
const compare = (a, b) => {
  const key = COLUMNS[sort.column][2], x = key(a), y = key(b);
  if (known(x) !== known(y)) return known(x) ? -1 : 1;
  const order = x === y || !known(x) ? 0 : (typeof x === "string" ? byName.compare(x, y) : x - y) * (sort.down ? -1 : 1);
  return order || byName.compare(a.group, b.group) || byName.compare(a.run, b.run);
};
const haystack = (run) => [run.run, run.group, run.verdict, run.state, ...Object.entries(run.labels).map((pair) => pair.join("=")),
  ...flagsOf(run).flatMap((flag) => [flag.detector, words(flag.detector), flag.reason])].join("\n").toLowerCase();

const drawn = new Map();   // key → {row, cells, seen: JSON of what the row shows}
// As many rows as a screen shows are drawn at once, the others after the frame that shows these.
let turn = 0;
function drawRows(head, from, mine) {
  if (mine !== turn) return;   // what is shown has changed since
  const held = $("rows").contains(document.activeElement) ? document.activeElement : null, cell = held?.closest("td"), row = held?.closest("tr");
  head.slice(from, from + ROWS_A_TURN).forEach((run, index) => {
    const key = keyOf(run), seen = JSON.stringify(run);
    let entry = drawn.get(key);
    if (!entry) {
      entry = {row: make("tr"), cells: COLUMNS.map(([label, className]) => { const cell = make("td", className); cell.dataset.label = label; return cell; }), seen: ""};
      entry.row.append(...entry.cells);
      drawn.set(key, entry);
    }
    if (entry.seen !== seen) {   // untouched rows keep focus and selection
      entry.seen = seen;
      entry.row.className = run.state === "live" ? "" : "over";
      COLUMNS.forEach(([, , , fill], column) => fill(entry.cells[column], run));
    }
    COLUMNS[COLUMNS.length - 1][3](entry.cells[COLUMNS.length - 1], run);
    const there = $("rows").children[from + index];
    if (there !== entry.row) $("rows").insertBefore(entry.row, there ?? null);
  });
  // A cell that is filled anew, or a row that moves, takes the keyboard's place with it.
  if (held && document.activeElement !== held && row.isConnected) cell.querySelector("a")?.focus({preventScroll: true});
  if (from + ROWS_A_TURN < head.length) requestAnimationFrame(() => setTimeout(() => {
    try { drawRows(head, from + ROWS_A_TURN, mine); } catch (error) { failed(error); }
  }));
}
function drawRuns() {
  const terms = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const here = runs.filter((run) => !known(focus.group) || (run.group === focus.group && (!known(focus.tenant) || run.tenant === focus.tenant)));
  const matching = !terms.length ? here : here.filter((run) => { const text = haystack(run); return terms.every((term) => text.includes(term)); });
  const shown = matching.filter((run) => !only || run.verdict === only).sort(compare);
  const head = shown.slice(0, most);
  const keys = new Set(head.map(keyOf));
  for (const [key, entry] of drawn) if (!keys.has(key)) { entry.row.remove(); drawn.delete(key); }
  drawRows(head, 0, ++turn);
  [...$("head").children].forEach((cell, index) => {
    if (index === sort.column) cell.setAttribute("aria-sort", sort.down ? "descending" : "ascending");
    else cell.removeAttribute("aria-sort");
  });
  chips.forEach((chip, index) => {
    const count = matching.filter((run) => run.verdict === VERDICTS[index]).length;
    chip.firstChild.textContent = String(count);
    chip.setAttribute("aria-pressed", String(only === VERDICTS[index]));
    chip.hidden = count === 0 && only !== VERDICTS[index];
  });
  $("empty").hidden = runs.length > 0;
  $("bar").hidden = $("foot").hidden = runs.length === 0;
  $("table").hidden = head.length === 0;
  $("nothing").hidden = runs.length === 0 || head.length > 0;
  $("nothing").textContent = "No run matches. Esc clears the filter.";
  const cut = shown.length > head.length ? ", the first " + whole(head.length) + " shown" : "";
  $("more").hidden = !cut;
  $("table").classList.toggle("alone", known(focus.group));
  say($("count"), (shown.length === here.length ? counted(here.length, "run") : whole(shown.length) + " of " + counted(here.length, "run")) + cut);
  drawGroups(new Set(matching.map((run) => JSON.stringify([run.tenant, run.group]))));
  const unstable = here.filter((run) => run.verdict === "unstable" && run.state === "live").length;
  document.title = (unstable ? "▲ " + unstable + " · " : "") + (known(focus.group) ? (focus.run ?? focus.group) + " · " : "") + "topowatch";
}

let groupsSeen = "";
function drawGroups(matching) {
  const shown = groups.filter((group) => matching.has(JSON.stringify([group.tenant, group.group])));
  const seen = JSON.stringify([shown, focus]);
  if (seen === groupsSeen) return;
  groupsSeen = seen;
  const lines = shown.slice(0, GROUPS_SHOWN).map((group) => {
    const line = make("div"), anchor = make("a", "", group.group), out = group.outliers;
    anchor.href = place(group.group, group.tenant);
    line.append(anchor, make("span", "", group.abstained ? "classes withheld: " + group.reason
      : whole(group.classes) + (group.classes === 1 ? " class" : " classes")));
    if (out.length) line.append(make("span", "hot", (out.length === 1 ? "1 outlier: " : whole(out.length) + " outliers: ")
      + out.slice(0, 5).join(", ") + (out.length > 5 ? ", …" : "")));
    return line;
  });
  if (shown.length > GROUPS_SHOWN) lines.push(make("div", "", "and " + whole(shown.length - GROUPS_SHOWN) + " more groups"));
  $("groups").replaceChildren(...lines);
  $("groups").hidden = lines.length === 0 || known(focus.group);
}

