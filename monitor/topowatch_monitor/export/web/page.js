// What the address asks for, and keeping what is shown up to date.
const MAP_SECONDS = 10, SHAPE_SECONDS = 5;
// Answers about what is looked at, when the costly ones came, and which of them are on their way.
let timer, asked = {}, drawnAt = {}, coming = new Set();

function lookAt() {
  const told = new URLSearchParams(location.hash.slice(1) || (stored ? place(stored.group, stored.tenant).slice(1) : ""));
  const next = told.get("group") ? {group: told.get("group"), tenant: told.get("tenant"), run: told.get("run") || null} : {};
  const moved = JSON.stringify(next) !== JSON.stringify(focus);
  focus = next;
  $("focus").hidden = !known(focus.group);
  $("fleet").hidden = known(focus.run);
  $("title").textContent = focus.run ?? focus.group ?? "";
  const crumbs = [];
  if (known(focus.group) && !stored) crumbs.push(Object.assign(make("a", "", "All runs"), {href: "#"}));
  if (known(focus.run)) crumbs.push(Object.assign(make("a", "", focus.group), {href: place(focus.group, focus.tenant)}));
  else if (stored && focus.group !== stored.group) crumbs.push(Object.assign(make("a", "", stored.group), {href: place(stored.group, stored.tenant)}));
  $("crumbs").replaceChildren(...crumbs.flatMap((crumb) => [crumb, make("span", "", " / ")]));
  $("json").href = urlOf("runs", {group: focus.group, tenant: focus.tenant});
  if (known(focus.group)) $("focus-json").href = known(focus.run) ? urlOf("runs/" + at(focus.run), {group: focus.group, tenant: focus.tenant})
    : urlOf("groups/" + at(focus.group, "classes"), {tenant: focus.tenant});
  if (moved) { asked = {}; drawnAt = {}; coming = new Set(); }
  drawFocus();
  if (runs.length) drawRuns();
  if (!moved) return;
  window.scrollTo(0, 0);
  if (runs.length) $(known(focus.group) ? "title" : "name").focus({preventScroll: true});   // the link that led here is gone
}
// One answer about what is looked at.
async function fetchOne(name, path, query) {
  const subject = focus, now = performance.now() / 1000;
  let answer;
  try { answer = await get(path, query); } catch (error) {
    if (!(error instanceof Refused) || [NO_ANSWER, 401].includes(error.status)) throw error;
    answer = error;
  }
  if (subject !== focus) return;
  if (answered(answer)) drawnAt[name] = now;
  if (answered(answer) || !answered(asked[name])) asked[name] = answer;
  drawFocus();
}
// One that costs the daemon something is asked for more rarely, and nothing waits for it.
function fetchCostly(name, path, query, seconds) {
  if (coming.has(name) || performance.now() / 1000 - (drawnAt[name] ?? -Infinity) < seconds) return;
  const these = coming.add(name);
  fetchOne(name, path, query).catch(failed).finally(() => these.delete(name));
}
async function fetchFocus() {
  const {group, run, tenant} = focus;
  if (known(run)) fetchCostly("shape", "runs/" + at(run, "shape"), {group, tenant}, SHAPE_SECONDS);
  else if (known(group)) fetchCostly("map", "groups/" + at(group, "map"), {tenant}, MAP_SECONDS);
  if (known(run)) await fetchOne("run", "runs/" + at(run), {group, tenant});
  else if (known(group)) await Promise.all(["classes", "forecast"].map((name) => fetchOne(name, "groups/" + at(group, name), {tenant})));
}
function drawFocus() {
  if (!known(focus.group)) { showPanels([]); return; }
  const subject = asked[known(focus.run) ? "run" : "classes"];
  if (!answered(subject)) { showPanels([]); $("told").replaceChildren(make("p", "counts", subject instanceof Error ? subject.message : "asking …")); return; }
  const head = known(focus.run) ? runHead(subject) : groupHead(subject), there = $("told").children;
  if (head.length !== there.length || head.some((node, index) => !node.isEqualNode(there[index]))) $("told").replaceChildren(...head);
  showPanels(known(focus.run) ? runPanels(subject, asked.shape) : groupPanels(focus, subject, asked.map, asked.forecast));
}

// Ask for a token, for this reason; for null there is no need to.
function ask(why) {
  const needed = why !== null;
  if (needed && $("entry").hidden) $("token").value = "";
  $("entry").hidden = !needed;
  $("main").hidden = needed;
  say($("refused"), why ? "Not let in: " + why + "." : "");
}
function failed(error) {
  if (error instanceof Refused && [401, 403].includes(error.status)) {
    ask(sessionStorage.getItem("token") ? error.message : "");
    failedSince = 0; fetchedAt = 0;
  } else if (error instanceof Refused) failedSince = failedSince || Date.now();
  else { fault = String(error); console.error(error); }
}
$("entry").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", $("token").value.trim());
  refresh();
});
// A link carries no token, so what it leads to is fetched here and shown; a report has the answers in it.
document.addEventListener("click", async (event) => {
  const anchor = event.target.closest('a[href^="api/"]');
  if (!anchor) return;
  const token = stored ? null : sessionStorage.getItem("token");   // a file may have none to look into
  if (!(token || stored)) return;
  event.preventDefault();
  const href = anchor.getAttribute("href"), path = href.slice("api/v1/".length).split("?")[0];
  const answer = stored ? own(stored.answers, path) : await (await fetch(href, {headers: {Authorization: "Bearer " + token}})).json();
  window.open(URL.createObjectURL(new Blob([JSON.stringify(answer, null, 2)], {type: "application/json"})));
});
async function refresh() {
  let pause = 2000;
  if (!document.hidden || stored) {
    try {
      const body = await get("runs");
      runs = body.runs; groups = body.groups ?? []; late = body.late ?? []; serverNow = body.now; fetchedAt = performance.now(); failedSince = 0; fault = "";
      pause = runs.length > 300 ? 5000 : 2000;
      ask(null);
      drawRuns();
      await fetchFocus();
    } catch (error) { failed(error); }
    if (!$("entry").hidden) pause = 30000;
    tick();
  }
  if (!stored) again(pause);
}
function again(pause) {
  clearTimeout(timer);
  timer = setTimeout(refresh, pause);
}
function tick() {
  $("pulse").classList.toggle("down", failedSince > 0);
  const told = failedSince ? "The daemon has not answered since " + new Date(failedSince).toLocaleTimeString() + "; what is shown may be old. Trying again."
    : fault ? "What was told could not be drawn, a fault of this page: " + fault : late.join("; ");
  $("notice").hidden = !told;
  if (told) say($("notice"), told);
  $("age").textContent = stored ? "report of " + new Date(1000 * stored.made_at).toLocaleString(undefined, {dateStyle: "medium", timeStyle: "long"})
    : fetchedAt ? "updated " + ago((performance.now() - fetchedAt) / 1000) : failedSince ? "no answer" : "connecting …";
}
$("filter").addEventListener("input", drawRuns);
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input");
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey && !$("fleet").hidden) { event.preventDefault(); $("filter").focus(); }
  if (event.key !== "Escape" || event.isComposing || $("main").hidden) return;
  if (known(focus.run)) { location.hash = place(focus.group, focus.tenant); return; }   // its table, and what filters it, is not shown
  const idle = $("filter").value === "" && only === null;
  if (idle && known(focus.group) && !stored) location.hash = "";
  $("filter").value = ""; only = null;
  drawRuns();
});
document.addEventListener("visibilitychange", () => { if (!document.hidden) tick(); });
window.addEventListener("hashchange", () => { lookAt(); if (!$("entry").hidden) return; clearTimeout(timer); refresh(); });
window.addEventListener("resize", drawFocus);
$("foot").classList.toggle("still", stored !== null);
setInterval(tick, 1000);
lookAt();
refresh();
