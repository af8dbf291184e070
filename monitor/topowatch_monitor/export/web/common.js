const $ = (id) => document.getElementById(id);
const make = (tag, className, text) => {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
};
const say = (node, text) => { if (node.textContent !== text) node.textContent = text; };   // nobody is told the same again
const known = (value) => value !== null && value !== undefined;
const number = (value) => !known(value) ? "–" : value === 0 ? "0"
  : Math.abs(value) >= 1e6 || Math.abs(value) < 1e-3 ? value.toExponential(2)
  : Math.abs(value) >= 1000 ? digits.format(Math.round(value)) : String(Number(value.toPrecision(4)));
const digits = new Intl.NumberFormat("en-US");
const whole = (value) => known(value) ? digits.format(value) : "–";
const percent = (value) => known(value) ? (100 * value).toFixed(value < 0.1 ? 2 : 1) + " %" : "–";
const counted = (count, one, many) => whole(count) + " " + (count === 1 ? one : many ?? one + "s");
const ago = (seconds) => seconds < 1.5 ? "now" : seconds < 90 ? Math.round(seconds) + " s ago"
  : seconds < 5400 ? Math.round(seconds / 60) + " min ago" : seconds < 129600 ? Math.round(seconds / 3600) + " h ago" : Math.round(seconds / 86400) + " d ago";
const words = (name) => name.replaceAll("_", " ");
const own = (table, name) => known(name) && Object.hasOwn(table ?? {}, name) ? table[name] : null;   // a name may be "constructor"

// Answers come from the daemon, or from this file where `topowatch report` has put them into it.
const stored = $("stored") ? JSON.parse($("stored").textContent) : null;
const NO_ANSWER = 0;
class Refused extends Error { constructor(status, why) { super(why); this.status = status; } }
const queryOf = (asked) => String(new URLSearchParams(Object.entries(asked).filter(([, value]) => known(value))));
const urlOf = (path, asked) => "api/v1/" + path + (queryOf(asked) && "?" + queryOf(asked));
async function get(path, asked = {}) {
  if (stored) {
    if (!(path in stored.answers)) throw new Refused(404, stored.problems[path] ?? "this is not in the report");
    return stored.answers[path];
  }
  const token = sessionStorage.getItem("token");
  const headers = token ? {Authorization: "Bearer " + token} : {};
  let answer, body;
  try {
    answer = await fetch(urlOf(path, asked), {cache: "no-store", headers, signal: AbortSignal.timeout(10000)});
    body = await answer.json();
  } catch (error) { throw new Refused(NO_ANSWER, String(error)); }
  if (!answer.ok) throw new Refused(answer.status, body.error ?? "HTTP " + answer.status);
  return body;
}
const at = (...parts) => parts.map(encodeURIComponent).join("/");
// What is looked at stands behind the # of the address, so that the browser's own back and forward work.
const place = (group, tenant, run) => "#" + queryOf({group, tenant: tenant || null, run});
