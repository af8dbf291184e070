// One group, or one run: what is known of it in words, and panels with its drawings.
const MOST_LEAVES = 48, MOST_ROWS = 40, MOST_NAMED = 12, MOST_SHOWN_BARS = 40, COLOURS = 7;
const answered = (value) => known(value) && !(value instanceof Error);
const why = (value) => value instanceof Error ? "Not drawn: " + value.message + "." : "Being drawn …";

// Panels, told by key: {key, title, says, seen, draw(width) → nodes}. One is drawn anew when what it shows, or its width, has changed.
const panels = new Map();
function showPanels(list) {
  const keys = new Set(list.map((panel) => panel.key));
  for (const [key, entry] of panels) if (!keys.has(key)) { entry.node.remove(); panels.delete(key); }
  list.forEach((panel, position) => {
    let entry = panels.get(panel.key);
    if (!entry) {
      entry = {node: make("section", "panel card"), title: make("h3"), says: make("p", "says"), body: make("div", "body")};
      entry.node.id = "panel-" + panel.key;
      entry.node.append(entry.title, entry.says, entry.body);
      panels.set(panel.key, entry);
    }
    if ($("panels").children[position] !== entry.node) $("panels").insertBefore(entry.node, $("panels").children[position] ?? null);
    const width = Math.max(240, Math.floor(entry.body.clientWidth)), seen = JSON.stringify([panel.seen ?? null, width]);
    say(entry.title, panel.title);
    say(entry.says, panel.says);
    if (entry.seen === seen) return;
    entry.seen = seen;
    const held = entry.node.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    entry.body.replaceChildren(...(panel.draw ? panel.draw(width) : []));
    if (held) [...entry.body.querySelectorAll("a")].find((each) => each.getAttribute("href") === held)?.focus({preventScroll: true});
  });
}
function facts(pairs) {
  const list = make("dl", "facts");
  for (const [name, value, hot] of pairs) {
    const pair = make("div");
    pair.append(make("dt", "", name), make("dd", hot ? "hot" : "", value));
    list.append(pair);
  }
  return list;
}
function rowsOf(heads, rows) {
  const table = make("table", "small"), head = make("tr");
  head.append(...heads.map((text) => { const cell = make("th", "", text); cell.scope = "col"; return cell; }));
  table.append(make("thead"), make("tbody"));
  table.firstChild.append(head);
  table.lastChild.append(...rows.map((cells) => { const row = make("tr"); row.append(...cells.map((text) => make("td", "", text))); return row; }));
  return table;
}

// A group

function coloursOf(classes) {
  const ranked = [...classes.classes].sort((a, b) => b.members.length - a.members.length || a.label - b.label).map((each) => each.label);
  return (name) => known(name) && ranked.includes(name) ? "k" + Math.min(ranked.indexOf(name), COLOURS) : "k0";
}
function treeOf(group, hrefOf, classOf) {
  const rows = group.merges.map(([first, second, merge]) => [first, second, merge ?? Infinity]);
  let floor = (group.scale ?? 0) * (1 + 1e-9);
  const scales = rows.map((row) => row[2]).sort((a, b) => a - b);
  for (const lowest of scales.slice(0, -1)) {
    if (scales.filter((each) => each > floor).length < MOST_LEAVES) break;
    if (lowest > floor && lowest < scales[scales.length - 1]) floor = lowest;
  }
  const nodes = group.runs.map((_, index) => ({members: [index]}));
  for (const [first, second, merge] of rows) {
    const pair = [nodes[first], nodes[second]], members = pair.flatMap((node) => node.members).sort((a, b) => a - b);
    if (merge <= floor && pair.every((node) => !node.children)) { nodes.push({members}); continue; }
    const same = (node) => node.children && (node.scale === merge || node.scale >= merge * (1 - 1e-9));
    nodes.push({members, scale: merge, children: pair.flatMap((node) => same(node) ? node.children : [node])});
  }
  const settle = (node) => {
    if (!node.children) {
      const names = node.members.map((index) => group.runs[index]), kinds = new Set(names.map(classOf));
      node.className = kinds.size === 1 ? [...kinds][0] : "";
      node.told = names.slice(0, 40).join(", ") + (names.length > 40 ? ", …" : "");
      node.text = names.length === 1 ? names[0] : names.length + " runs: " + names[0] + ", …";
      node.href = names.length === 1 ? hrefOf(names[0]) : null;
      return;
    }
    node.children.sort((a, b) => b.members.length - a.members.length || a.members[0] - b.members[0]).forEach(settle);
    if (node.children.length > MOST_LEAVES) {   // that part at one scale only
      const rest = node.children.splice(MOST_LEAVES - 1), members = rest.flatMap((each) => each.members);
      node.children.push({members, className: "", href: null, told: "they part here", text: members.length + " more runs that part here"});
    }
  };
  const root = nodes[nodes.length - 1];
  settle(root);
  return {root, floor, infinite: scales.includes(Infinity)};
}
function groupPanels(where, classes, map, forecast) {
  const href = (run) => place(where.group, where.tenant, run), list = [];
  const outliers = new Set(classes.outliers), members = new Map(classes.members.map((each) => [each.run, each])), colour = coloursOf(classes);
  const classOf = (run) => outliers.has(run) ? "out" : colour(members.get(run)?.label);
  const legend = () => {
    const node = make("p", "legend");
    if (classes.abstained) return node;
    for (const each of [...classes.classes].sort((a, b) => b.members.length - a.members.length).slice(0, COLOURS))
      node.append(make("span", colour(each.label), "class " + each.label + (each.majority ? ", the majority" : "") + " (" + each.members.length + ")"));
    if (outliers.size) node.append(make("span", "out", counted(outliers.size, "outlier")));
    return node;
  };
  if (answered(map) && map.paths.length) {
    const live = new Set(classes.members.filter((each) => each.state === "live").map((each) => each.run));
    const paths = map.paths.map((path) => ({...path, href: href(path.run), live: live.has(path.run), className: classOf(path.run),
      told: path.run + (live.has(path.run) ? ", live" : "") + (outliers.has(path.run) ? ", outlier" : "") + ", step " + whole(path.steps[path.steps.length - 1])}));
    const rank = (path) => (outliers.has(path.run) ? 2 : 0) + (path.live ? 1 : 0);
    paths.sort((a, b) => rank(a) - rank(b));
    const striking = paths.filter((path) => outliers.has(path.run)).slice(0, MOST_NAMED), going = paths.filter((path) => path.live);
    const named = new Set([...striking, ...(going.length <= MOST_NAMED ? going : [])].map((path) => path.run));
    paths.forEach((path) => { path.named = named.has(path.run); });
    const left = Object.keys(map.left_out).length, says = "Predictions on the shared probes, in the plane that holds " + percent(map.explained) + " of the paths' variance: from ○ to ●"
      + (map.more ? "; the first " + map.paths.length + " of " + whole(map.paths.length + map.more) + " runs" : "")
      + (left ? "; " + counted(left, "run") + " on other probes left out" : "") + ".";
    list.push({key: "map", title: "Map of paths", says, seen: [paths, classes.abstained], draw: (width) => [drawMap(paths, width, "Map of " + counted(paths.length, "path")), legend()]});
  } else list.push({key: "map", title: "Map of paths", says: answered(map) ? "Nothing to draw: " + map.reason + "." : why(map)});
  if (classes.merges.length) {
    const says = classes.abstained ? "Classes are withheld: " + classes.reason + ". The tree shows all scales, also those that prove nothing."
      : "Scales at which runs merge, the largest at the left; runs that part at none above the scale of the classes are one line.";
    list.push({key: "classes", title: "Path classes", says, seen: [classes.merges, classes.runs, classes.outliers, classes.classes],
      draw: (width) => { const tree = treeOf(classes, href, classOf); return [drawTree(tree.root, tree.floor, tree.infinite, width), legend()]; }});
  } else list.push({key: "classes", title: "Path classes", says: classes.abstained ? "Classes are withheld: " + classes.reason + "."
    : "There is no dendrogram of so many runs: it would compare every two of them."});
  if (classes.bars.length) {
    const bars = classes.bars.map(([birth, death], index) => [birth, death, "p " + number(classes.p_values[index])]);
    const spread = classes.spread, says = "Loops between the paths that beat the noise, smallest p " + number(classes.best_p) + ". Results over the classes: "
      + spread.verdict + (spread.reason ? ", " + spread.reason : "") + ".";
    list.push({key: "evidence", title: "Evidence", says, seen: bars, draw: (width) => [drawBarcode([], bars, width, counted(bars.length, "loop") + " that part the classes")]});
  }
  list.push(forecastPanel(href, classes, forecast, (run) => outliers.has(run) ? "out" : ""));
  return list;
}
function forecastPanel(href, classes, forecast, classOf) {
  if (!answered(forecast)) return {key: "forecasts", title: "Forecasts", says: why(forecast)};
  const learned = forecast.learned[0], higher = learned?.higher_is_better !== false, better = (a, b) => (b.value - a.value) * (higher ? 1 : -1);
  const live = forecast.runs.filter((run) => run.state === "live"), told = live.filter((run) => known(run.value)).sort(better);
  const metric = told[0]?.metric ?? learned?.metric ?? classes.spread.metric;
  const ended = classes.members.filter((run) => run.state === "ended" && Number.isFinite(own(run.results, metric)))
    .map((run) => ({run: run.run, value: run.results[metric], lower: run.results[metric], upper: run.results[metric], ended: true})).sort(better);
  const rows = (told.length ? told : ended).slice(0, MOST_ROWS).map((run) => ({...run, href: href(run.run), className: classOf(run.run), note: run.misses_target ? "off target" : ""}));
  const best = (baselines) => Object.values(baselines).filter(known).sort((a, b) => b - a)[0];
  const levels = (learned?.levels ?? []).map((level) => [percent(level.share), number(level.made.r2), number(level.left_out.r2), number(level.without_topology),
    number(best(level.baselines)), percent(level.made.coverage)]);
  const silent = live.length - told.length, all = told.length || ended.length;
  const says = (told.length ? metric + " that " + counted(told.length, "live run") + " will end with, " + (higher ? "more" : "less") + " is better, with 90 % intervals"
    + (silent ? "; nothing is forecast of " + whole(silent) + ": " + live.find((run) => !known(run.value)).reason : "")
    : (forecast.abstained && forecast.reason ? "Nothing is forecast: " + forecast.reason : "No run is live") + (ended.length ? ". What the others ended with, " + metric : ""))
    + (all > rows.length ? "; the first " + rows.length + " of " + whole(all) : "") + ".";
  const target = told.find((run) => known(run.target))?.target;
  return {key: "forecasts", title: told.length || !ended.length ? "Forecasts" : "Results", says, seen: [rows, target, levels], draw: (width) => [
    ...(rows.length ? [drawIntervals(metric, rows, target, width)] : []),
    ...(levels.length ? [make("h4", "", "What forecasts were worth, R²"), rowsOf(["share of steps", "as made", "left out", "no topology", "best plain", "held of 90 %"], levels)] : [])]};
}
function groupHead(classes) {
  const counts = [counted(classes.ended, "ended run"), whole(classes.live) + " live"];
  if (!classes.abstained) counts.push(counted(classes.classes.length, "class", "classes"));
  const nodes = [make("p", "counts", counts.join(" · "))];
  if (classes.outliers.length) nodes.push(make("p", "hot", counted(classes.outliers.length, "outlier") + ": " + classes.outliers.slice(0, 8).join(", ") + (classes.outliers.length > 8 ? ", …" : "")));
  return nodes;
}

// A run

function runPanels(run, shape) {
  const list = [], drawn = answered(shape);
  const marks = run.events.filter((event) => event.on && !event.superseded).map((event) => ({step: event.step, severity: event.severity === "critical" ? "critical" : "warning",
    text: words(event.detector) + " at step " + whole(event.step) + ": " + event.reason}));
  const curves = drawn ? ["loss", "probe_loss"].filter((name) => shape.curves[name]).map((name) => ({name: words(name), ...shape.curves[name]})) : [];
  list.push({key: "loss", title: "Loss", says: !drawn ? why(shape) : curves.length ? "Means over the steps, with the least and the largest of what is still known one by one" + (marks.length ? "; lines where a flag went on." : ".") : "No loss has been logged.",
    seen: [curves, marks], draw: (width) => curves.length ? [drawCurves(curves, marks, width)] : []});
  const told = run.forecast, metric = told.metric ?? (drawn ? shape.forecasts[0]?.metric : null);
  const made = drawn ? shape.forecasts.filter((each) => each.metric === metric) : [], now = told.abstained || !known(told.value) ? null : told;
  const curve = drawn ? own(shape.curves, metric) : null, result = own(run.results, metric);
  const any = known(metric) && (made.length || now);
  const says = now ? metric + " is forecast to end at " + number(now.value) + ", between " + number(now.lower) + " and " + number(now.upper) + " in 9 of 10 cases"
    + (now.gap ? "; gap " + number(now.gap.value) : "") + (known(now.target) ? "; target " + number(now.target) + (now.misses_target ? ", out of reach" : "") : "") + "."
    : run.state === "live" ? "Nothing is forecast: " + told.reason + "." : any ? "Forecasts of " + metric + " as they were made" + (known(result) ? "; it ended with " + number(result) : "") + "." : "Nothing was forecast of this run.";
  const planned = Number(own(run.labels, "total_steps") ?? 0), end = run.state === "ended" ? run.step : Math.max(run.step ?? 0, Number.isFinite(planned) ? planned : 0);
  list.push({key: "forecast", title: "Forecast", says, seen: [metric, curve, made, now, result, end], draw: (width) => any ? [drawFan(metric, curve, made, now, end, result, width)] : []});
  for (const [key, title, path] of [["weights", "Path of the weights", run.path], ["predictions", "Path of the predictions", run.representation]]) {
    const bars = drawn ? shape[key] : null;
    if (drawn && !bars) { list.push({key, title, says: key === "weights" ? "Nothing of it has been sketched." : "The job sends no predictions on probes: attach(…, probe=…) does."}); continue; }
    const numbers = path ? [["length", number(path.length)], ["dimension", number(path.dimension)], ["Σ H₀", number(path.h0_total_persistence)], ["Σ H₁", number(path.h1_total_persistence)], ["Betti drift", number(path.betti_drift)]] : [];
    const says = !drawn ? why(shape) : "Persistent homology of its latest " + whole(bars.points) + " points: the longest of " + counted(bars.h0_bars, "component") + " and " + counted(bars.h1_bars, "loop") + ", at a resolution of " + number(bars.resolution) + ".";
    list.push({key, title, says, seen: [bars, numbers], draw: (width) => bars ? [facts(numbers),
      drawBarcode(bars.h0.slice(0, MOST_SHOWN_BARS), bars.h1.slice(0, MOST_SHOWN_BARS), width, counted(bars.h0_bars, "component") + " and " + counted(bars.h1_bars, "loop"))] : []});
  }
  const slice = run.landscape;
  if (slice?.values.length) list.push({key: "slice", title: "Slice of the loss", says: "Around step " + whole(slice.step) + ", " + number(slice.extent) + " filter norms to each side; + is where the run stood.", seen: slice,
    draw: (width) => [facts([["basin depth", number(slice.basin_depth)], ["escape height", number(slice.escape_height)], ["total persistence", number(slice.total_persistence)]]), drawSlice(slice.values, slice.side, width)]});
  else list.push({key: "slice", title: "Slice of the loss", says: slice?.problem ? "The job took none: " + slice.problem + "." : "None was taken. `topowatch show " + run.run + " --slice` asks a job at work for one."});
  const events = run.events.slice(-30).reverse().map((event) => [whole(event.step), words(event.detector), event.on ? "on" : "off", (event.superseded ? "superseded: " : "") + event.reason]);
  list.push({key: "events", title: "Events", says: events.length ? "When flags went on and off, the newest first." : "No flag has gone on.", seen: events, draw: () => events.length ? [rowsOf(["step", "flag", "", "why"], events)] : []});
  return list;
}
function runHead(run) {
  const told = classOf(run), labels = Object.entries(run.labels).map(([name, value]) => name + "=" + value).join(" · "), nodes = [];
  const line = make("p", "counts");
  line.append(make("span", "verdict " + run.verdict, run.verdict), make("span", "", [run.state, "step " + whole(run.step), counted(run.samples, "sample"), ...(run.dropped ? [whole(run.dropped) + " dropped"] : [])].join(" · ")));
  nodes.push(line);
  if (labels) nodes.push(make("p", "soft", labels));
  nodes.push(...flagsOf(run).map(flagLine));
  nodes.push(facts([["loss", lossWord(run)], ["probe loss", number(run.probe_loss)], ["instability score", number(run.instability_score), run.minimum_unstable],
    ["lr over critical lr", number(run.critical_lr_ratio)], ["follows its gradients", number(run.gradient_flow_consistency)],
    ["path class", classWord(run), told.outlier], ["p", number(told.p_value)], ["overhead", percent(run.overhead_ratio)], ["interval", known(run.interval) ? counted(run.interval, "step") : "–"],
    ...Object.entries(run.results ?? {}).slice(0, 6).map(([name, value]) => ["ended with " + words(name), number(value)])]));
  return nodes;
}
