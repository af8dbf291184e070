// Drawings: from numbers and a width to an <svg>. Colours are classes, so that they follow light and dark.
const SVG = "http://www.w3.org/2000/svg";
const draw = (tag, attributes = {}, ...children) => {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) if (known(value)) node.setAttribute(name, value);
  node.append(...children);
  return node;
};
// What is an image is told as one: a drawing with links in it is a group, or nobody would hear of them.
const canvas = (width, height, told, role = "img") => draw("svg", {viewBox: `0 0 ${width} ${height}`, width, height, role, "aria-label": told});
const titled = (node, text) => { node.prepend(draw("title", {}, text)); return node; };
const label = (x, y, text, attributes = {}) => draw("text", {x, y, ...attributes}, text);
const cut = (text, most) => {
  const letters = [...text], half = (most - 1) / 2;   // of two halves of a letter, none is one
  return letters.length <= most ? text : [...letters.slice(0, Math.ceil(half)), "…", ...letters.slice(letters.length - Math.floor(half))].join("");
};
const link = (href, text, node) => titled(draw("a", {href}, node), text);

function scale(low, high, from, to, logarithmic = false) {
  const f = logarithmic ? Math.log10 : (value) => value;
  const span = f(high) - f(low) || 1;
  return (value) => from + (f(value) - f(low)) / span * (to - from);
}
function ticks(low, high, most, logarithmic = false) {
  if (logarithmic) {
    const first = Math.ceil(Math.log10(low)), last = Math.floor(Math.log10(high)), step = Math.max(1, Math.ceil((last - first + 1) / most));
    const powers = [];
    for (let power = first; power <= last; power += step) powers.push(Number("1e" + power));
    if (powers.length > 1) return powers;
  }
  const rough = (high - low) / most || 1, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((factor) => factor * power >= rough) * power;
  const first = Math.ceil(low / step - 1e-9), count = Math.floor(high / step + 1e-9) - first + 1;
  return Array.from({length: Math.min(count || 0, most + 2)}, (_, index) => Number(((first + index) * step).toPrecision(12))).filter(Number.isFinite);
}
// A tick in as many digits as tell it from its neighbours.
const short = (value) => Math.abs(value) >= 1e5 || (value !== 0 && Math.abs(value) < 1e-3) ? value.toExponential().replace("e+", "e")
  : Math.abs(value) >= 1000 ? digits.format(value) : String(Number(value.toPrecision(6)));
const extent = (values) => {
  const finite = values.filter((value) => Number.isFinite(value));
  return finite.length ? [Math.min(...finite), Math.max(...finite)] : [0, 1];
};
// Numbers that differ by rounding alone are drawn as equal ones.
const padded = ([low, high]) => {
  const size = Math.max(Math.abs(low), Math.abs(high)), more = high - low > 1e-9 * size ? 0.06 * (high - low) : 0.1 * size || 1;
  return [low - more, high + more];
};

// A frame with two axes; `inside` draws between them.
function frame(width, height, told, x, y, inside, {left = 52, right = 12, top = 10, bottom = 26, log = false} = {}) {
  const svg = canvas(width, height, told);
  const across = scale(...x, left, width - right), up = scale(...y, height - bottom, top, log);
  for (const tick of ticks(...y, 5, log)) svg.append(
    draw("line", {class: "grid", x1: left, x2: width - right, y1: up(tick), y2: up(tick)}),
    label(left - 6, up(tick) + 4, short(tick), {class: "tick", "text-anchor": "end"}));
  for (const tick of ticks(...x, Math.max(2, Math.floor(width / 110)))) svg.append(
    label(across(tick), height - bottom + 16, short(tick), {class: "tick", "text-anchor": "middle"}));
  inside(svg, across, up);
  return svg;
}
// A line that is broken where a value is not finite; a value between two such ones is a dot.
function line(steps, values, across, up, attributes) {
  let path = "", down = false;
  steps.forEach((step, index) => {
    const y = known(values[index]) ? up(values[index]) : NaN;
    if (Number.isFinite(y)) path += (down ? "L" : "M") + across(step).toFixed(1) + " " + y.toFixed(1) + (down ? "" : "h0");
    down = Number.isFinite(y);
  });
  return draw("path", {class: "line", d: path, ...attributes});
}

// Curves: [{name, steps, means, least, most}] over the steps; marks: [{step, text, severity}].
function drawCurves(curves, marks, width) {
  const [low, high] = extent(curves.flatMap((curve) => [...curve.least, ...curve.most]));
  const log = low > 0 && high / low > 30;
  const x = extent(curves.flatMap((curve) => curve.steps));
  const y = log ? [low / 1.1, high * 1.1] : padded([low, high]);
  const told = curves.map((curve) => curve.name).join(", ") + " over the steps, from " + number(low) + " to " + number(high);
  return frame(width, 230, told, x, y, (svg, across, up) => {
    for (const mark of marks.filter((mark) => mark.step >= x[0] && mark.step <= x[1])) svg.append(titled(
      draw("line", {class: "mark " + mark.severity, x1: across(mark.step), x2: across(mark.step), y1: 10, y2: 204}), mark.text));
    curves.forEach((curve, index) => {
      for (const run of stretches(curve.means)) svg.append(band(run.map((at) => [curve.steps[at], curve.least[at], curve.most[at]]), across, up, "spread s" + index));
      svg.append(line(curve.steps, curve.means, across, up, {class: "line c" + index}));
    });
    curves.forEach((curve, index) => svg.append(label(60 + index * 120, 22, curve.name, {class: "key c" + index})));
  }, {log});
}
// Positions in a row at which values are finite.
function stretches(values) {
  const found = [[]];
  values.forEach((value, index) => { if (Number.isFinite(value)) found[found.length - 1].push(index); else if (found[found.length - 1].length) found.push([]); });
  return found.filter((run) => run.length > 1);
}
const band = (points, across, up, className) => draw("polygon", {class: className,
  points: [...points.map(([step, , most]) => [step, most]), ...points.map(([step, least]) => [step, least]).reverse()].map(([step, value]) => across(step).toFixed(1) + "," + up(value).toFixed(1)).join(" ")});

// Forecasts as they were made, the metric so far, and where it is to end: [{step, value, lower, upper}].
function drawFan(metric, curve, made, now, end, result, width) {
  const x = [0, Math.max(end, now?.step ?? 0, ...made.map((each) => each.step), ...(curve?.steps ?? []), 1)];
  const all = [...made, ...(now ? [now] : [])].flatMap((each) => [each.lower, each.upper]);
  const y = padded(extent([...all, ...(curve?.means ?? []).filter(Number.isFinite), ...(known(result) ? [result] : [])]));
  const told = metric + ": " + (now ? "forecast " + number(now.value) + ", " + number(now.lower) + " to " + number(now.upper) : "no forecast now") + (known(result) ? ", ended with " + number(result) : "");
  return frame(width, 230, told, x, y, (svg, across, up) => {
    if (made.length > 1) {
      svg.append(band(made.map((each) => [each.step, each.lower, each.upper]), across, up, "band"));
      svg.append(line(made.map((each) => each.step), made.map((each) => each.value), across, up, {class: "line told"}));
    }
    for (const each of made) svg.append(titled(draw("circle", {class: "told", cx: across(each.step), cy: up(each.value), r: 3}),
      "at step " + whole(each.step) + ": " + number(each.value) + " (" + number(each.lower) + " to " + number(each.upper) + ")"));
    if (curve) svg.append(line(curve.steps, curve.means, across, up, {class: "line c0"}));
    if (now) {
      const last = curve ? [...curve.steps.keys()].reverse().find((index) => Number.isFinite(curve.means[index])) : undefined;
      const tip = known(last) ? [curve.steps[last], curve.means[last]] : null;
      if (tip && tip[0] < x[1]) svg.append(draw("polygon", {class: "fan", points: [tip, [x[1], now.upper], [x[1], now.lower]].map(([step, value]) => across(step).toFixed(1) + "," + up(value).toFixed(1)).join(" ")}));
      svg.append(draw("line", {class: "whisker", x1: across(x[1]), x2: across(x[1]), y1: up(now.lower), y2: up(now.upper)}),
        draw("circle", {class: "told end", cx: across(x[1]), cy: up(now.value), r: 4.5}));
    }
    if (known(result)) svg.append(titled(draw("circle", {class: "result", cx: across(x[1]), cy: up(result), r: 5}), "ended with " + number(result)));
  });
}

// Intervals of many runs, the best first: [{run, href, value, lower, upper, note}].
function drawIntervals(metric, rows, target, width) {
  const longest = Math.max(...rows.map((row) => row.run.length)), left = Math.min(24 + 7 * longest, 0.42 * width), room = Math.floor((left - 10) / 7);
  const height = 34 + 20 * rows.length;
  const x = padded(extent([...rows.flatMap((row) => [row.lower, row.upper, row.value]), ...(known(target) ? [target] : [])]));
  const svg = canvas(width, height, "What " + counted(rows.length, "run") + " ended with or will, " + metric + ", the best first", "group");
  const across = scale(...x, left, width - 14);
  for (const tick of ticks(...x, Math.max(2, Math.floor((width - left) / 90)))) svg.append(
    draw("line", {class: "grid", x1: across(tick), x2: across(tick), y1: 4, y2: height - 26}),
    label(across(tick), height - 10, short(tick), {class: "tick", "text-anchor": "middle"}));
  if (known(target)) svg.append(titled(draw("line", {class: "mark warning", x1: across(target), x2: across(target), y1: 4, y2: height - 26}), "target " + number(target)));
  rows.forEach((row, index) => {
    const y = 16 + 20 * index, text = row.run + ": " + number(row.value) + (row.lower === row.upper ? "" : " (" + number(row.lower) + " to " + number(row.upper) + ")") + (row.note ? ", " + row.note : "");
    svg.append(link(row.href, text, label(left - 8, y + 4, cut(row.run, room), {class: "name " + (row.className ?? ""), "text-anchor": "end"})),
      titled(draw("line", {class: "whisker" + (row.ended ? " over" : ""), x1: across(row.lower), x2: across(row.upper), y1: y, y2: y}), text),
      titled(draw("circle", {class: row.ended ? "result" : "told end", cx: across(row.value), cy: y, r: 4}), text));
  });
  return svg;
}

// Bars from birth to death, those of H₀ above those of H₁. `endless` stands for a death that never comes.
function drawBarcode(h0, h1, width, told) {
  const gap = 5, top = 6, left = 34, count = h0.length + h1.length, height = top + gap * count + (h0.length && h1.length ? 12 : 0) + 30;
  const finite = [...h0, ...h1.flat()].filter((value) => Number.isFinite(value));
  const x = [0, (Math.max(...finite, 0) || 1) * 1.05];
  const svg = canvas(width, height, told), across = scale(...x, left, width - 12);
  for (const tick of ticks(...x, Math.max(2, Math.floor(width / 110)))) svg.append(
    draw("line", {class: "grid", x1: across(tick), x2: across(tick), y1: top, y2: height - 26}),
    label(across(tick), height - 10, short(tick), {class: "tick", "text-anchor": "middle"}));
  let y = top + 2;
  const bar = (birth, death, className, text) => {
    const to = known(death) ? across(death) : width - 4;
    svg.append(titled(draw("rect", {class: className, x: across(birth), y, width: Math.max(1, to - across(birth)), height: gap - 1.5}), text));
    y += gap;
  };
  if (h0.length) svg.append(label(left - 8, y + 8, "H₀", {class: "tick", "text-anchor": "end"}));
  for (const lifetime of h0) bar(0, lifetime, "h0", "a component that lasts to " + number(lifetime));
  if (h0.length && h1.length) y += 12;
  if (h1.length) svg.append(label(left - 8, y + 8, "H₁", {class: "tick", "text-anchor": "end"}));
  for (const [birth, death, note] of h1) bar(birth, death, "h1", "a loop from " + number(birth) + " to " + (known(death) ? number(death) : "∞") + (note ? ", " + note : ""));
  return svg;
}

// Paths in a plane: [{run, href, points, className, live, named}], the last ones on top.
function drawMap(paths, width, told) {
  const extents = [0, 1].map((axis) => extent(paths.flatMap((path) => path.points.map((point) => point[axis]))));
  const more = 0.06 * Math.max(...extents.map(([low, high]) => high - low)) || 1, [x, y] = extents.map(([low, high]) => [low - more, high + more]);
  const height = Math.round(Math.min(420, Math.max(200, (width - 20) * (y[1] - y[0]) / (x[1] - x[0]) + 20)));
  // One unit is as long across as it is up: distances are what the map is of.
  const unit = Math.min((width - 20) / (x[1] - x[0]), (height - 20) / (y[1] - y[0]));
  const across = (value) => width / 2 + (value - (x[0] + x[1]) / 2) * unit, up = (value) => height / 2 - (value - (y[0] + y[1]) / 2) * unit;
  const svg = canvas(width, height, told), names = [], taken = [];
  for (const path of paths) {
    const d = path.points.map(([px, py], index) => (index ? "L" : "M") + across(px).toFixed(1) + " " + up(py).toFixed(1)).join("");
    const [ex, ey] = path.points[path.points.length - 1], [sx, sy] = path.points[0];
    const node = draw("g", {class: "way " + path.className + (path.live ? " live" : "")},
      draw("path", {class: "aim", d}), draw("path", {class: "line", d}),
      draw("circle", {class: "start", cx: across(sx), cy: up(sy), r: 2}), draw("circle", {class: "end", cx: across(ex), cy: up(ey), r: path.live ? 4.5 : 3}));
    const anchor = link(path.href, path.told, node);
    anchor.setAttribute("tabindex", "-1");   // the table below has the same links, in order
    svg.append(anchor);
  }
  // Names do not lie on one another: those on top choose first, and one that finds no room is left to the pointer.
  for (const path of paths.filter((each) => each.named).reverse()) {
    const [ex, ey] = path.points[path.points.length - 1], x = across(ex), y = up(ey) + 4, end = x > 0.7 * width;
    const free = [y, y - 14, y + 14].find((here) => !taken.some((other) => Math.abs(other[0] - x) < 150 && Math.abs(other[1] - here) < 13));
    if (!known(free)) continue;
    taken.push([x, free]);
    names.push(label(x + (end ? -8 : 8), free, cut(path.run, 24), {class: "name", "text-anchor": end ? "end" : "start"}));
  }
  svg.append(...names);
  return svg;
}

// A tree of runs by the scale at which they merge, the largest at the left: leaves [{text, href, className}] in order.
function drawTree(tree, floor, infinite, width) {
  const rows = [], left = 14;
  const walk = (node) => { if (node.children) node.children.forEach(walk); else { node.y = 16 + 18 * rows.length; rows.push(node); } };
  walk(tree);
  const names = Math.min(24 + 7 * Math.max(...rows.map((row) => row.text.length)), 0.46 * width), right = width - names, room = Math.floor((names - 10) / 7);
  const height = 16 + 18 * rows.length + 26, svg = canvas(width, height, "Dendrogram of " + counted(rows.length, "line") + " by merge scale", "group");
  const scales = [];
  const collect = (node) => { if (node.children) { if (Number.isFinite(node.scale)) scales.push(node.scale); node.children.forEach(collect); } };
  collect(tree);
  const high = Math.max(...scales, floor * 1.01 || 1), finite = left + (infinite ? 26 : 0), across = scale(high, floor, finite, right - 12);
  const column = (node) => !node.children ? right - 12 : Number.isFinite(node.scale) ? across(node.scale) : left;
  for (const tick of ticks(floor, high, Math.max(2, Math.floor((right - left) / 90)))) svg.append(
    draw("line", {class: "grid", x1: across(tick), x2: across(tick), y1: 6, y2: height - 24}), label(across(tick), height - 8, short(tick), {class: "tick", "text-anchor": "middle"}));
  if (infinite) svg.append(label(left, height - 8, "∞", {class: "tick", "text-anchor": "middle"}));
  const branch = (node) => {
    if (!node.children) {
      const text = label(right - 4, node.y + 4, cut(node.text, room), {class: "name " + node.className});
      svg.append(node.href ? link(node.href, node.told, text) : titled(text, node.told));
      return;
    }
    node.children.forEach(branch);
    node.y = (node.children[0].y + node.children[node.children.length - 1].y) / 2;
    const x = column(node), first = node.children[0].y, last = node.children[node.children.length - 1].y;
    svg.append(titled(draw("path", {class: "branch", d: `M${x} ${first}V${last}` + node.children.map((child) => `M${x} ${child.y}H${column(child)}`).join("")}), Number.isFinite(node.scale) ? "merge at " + number(node.scale) : "never merge"));
  };
  branch(tree);
  return svg;
}

// A slice of the loss, row after row: shades of equal steps in log(loss − least + 1 % of the range).
const SHADES = ["#2d1160", "#5f187f", "#982d80", "#d3436e", "#f8765c", "#febb81", "#fcfdbf"].map((hex) => [1, 3, 5].map((start) => parseInt(hex.slice(start, start + 2), 16)));
function shade(share) {
  const place = Math.min(share, 0.999) * (SHADES.length - 1), index = Math.floor(place);
  return "rgb(" + SHADES[index].map((from, part) => Math.round(from + (SHADES[index + 1][part] - from) * (place - index))).join(",") + ")";
}
function drawSlice(values, side, width) {
  const size = Math.min(width, 380), cell = size / side, [least, largest] = extent(values.filter(known));
  const svg = canvas(size, size + 40, "Slice of the loss, " + side + " × " + side + " points, from " + number(least) + " to " + number(largest));
  const share = (value) => largest > least ? Math.log1p(100 * (value - least) / (largest - least)) / Math.log1p(100) : 0;
  values.forEach((value, index) => svg.append(titled(draw("rect", {
    x: (index % side) * cell, y: Math.floor(index / side) * cell, width: cell + 0.4, height: cell + 0.4,
    fill: Number.isFinite(value) ? shade(share(value)) : null, class: Number.isFinite(value) ? null : "lacking"}), Number.isFinite(value) ? number(value) : "not finite")));
  const middle = size / 2;
  svg.append(...["halo", "cross"].map((name) => draw("path", {class: name, d: `M${middle - 6} ${middle}h12M${middle} ${middle - 6}v12`})));
  for (let step = 0; step < 60; step++) svg.append(draw("rect", {x: step * size / 60, y: size + 8, width: size / 60 + 0.4, height: 8, fill: shade(step / 60)}));
  svg.append(label(0, size + 32, number(least), {class: "tick"}), label(size, size + 32, number(largest), {class: "tick", "text-anchor": "end"}));
  return svg;
}
