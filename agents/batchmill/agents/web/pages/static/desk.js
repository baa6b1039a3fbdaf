// The desk's own script: keys, focus, unsaved edits. Everything works without it.
//
// A key is written at what it does: data-key="a" on a button or link. Pressing it clicks the first visible one, in the
// open dialog if there is one. Keys never fire while somebody types, nor with Ctrl, Alt or Meta held.
"use strict";
(() => {
  const TYPING = "input:not([type=radio]):not([type=checkbox]):not([type=submit]), textarea, select";
  const main = () => document.getElementById("main");
  const isSeen = (element) => element.checkVisibility?.() ?? element.offsetParent !== null;
  const scope = () => document.querySelector("dialog[open]") ?? document;
  const withKey = (key) => [...scope().querySelectorAll("[data-key]")].find((e) => e.dataset.key === key && isSeen(e));

  function say(text) {
    const place = document.getElementById("said");
    if (place) place.textContent = text;
  }

  // --- unsaved edits: accepting or leaving would lose them ---

  const edited = () => document.querySelector("form[data-edits][data-edited]");
  let warnedOf = "";

  function markEdited(event) {
    const form = event.target.closest?.("form[data-edits]");
    if (!form || form.dataset.edited) return;
    form.dataset.edited = "yes";
    say("Edited: Ctrl+Enter saves the correction.");
  }

  function wouldLoseEdits(element, key) {
    const form = edited();
    if (!form || form.contains(element) || !element.dataset.leaves) return false;
    if (warnedOf === key) return false;
    warnedOf = key;
    say(`You have edited the answer. Ctrl+Enter saves it; press ${key} again to drop the edits.`);
    return true;
  }

  // --- keys ---

  function act(element, event) {
    event.preventDefault();
    if (wouldLoseEdits(element, event.key)) return;
    if (element.tagName === "SUMMARY") return toggle(element.parentElement);
    if (element.dataset.focuses) return focusFirst(document.getElementById(element.dataset.focuses));
    element.click();
  }

  function toggle(details) {
    details.open = !details.open;
    if (details.open) focusFirst(details.querySelector("form"));
    else details.querySelector("summary").focus();
  }

  function focusFirst(place) {
    const found = place?.querySelector("input:not([type=hidden]), textarea, select");
    found?.focus();
    if (found?.matches(TYPING) && found.setSelectionRange) found.setSelectionRange(found.value.length, found.value.length);
  }

  function moveInList(step) {
    const rows = [...document.querySelectorAll("[data-row]")].filter(isSeen);
    if (!rows.length) return false;
    const at = rows.indexOf(document.activeElement);
    rows[Math.min(rows.length - 1, Math.max(0, at < 0 ? 0 : at + step))].focus();
    return true;
  }

  function chooseByDigit(event) {
    const group = event.target.closest?.("[data-digits]") ?? openGroup();
    const option = group?.querySelectorAll("input[type=radio]")[Number(event.key) - 1];
    if (!option) return false;
    event.preventDefault();
    option.focus();
    if (!option.checked) option.click();
    return true;
  }

  const openGroup = () => document.querySelector("details.panel[open] [data-digits]");

  function pressed(event) {
    if (event.defaultPrevented || event.isComposing) return;
    const typing = event.target.matches?.(TYPING) ?? false;
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) return submitAround(event);
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key === "Escape") return escaped(event, typing);
    if (typing) return;
    if (/^[1-9]$/.test(event.key) && chooseByDigit(event)) return;
    if (event.key === "Enter" && event.target !== document.body && !event.target.matches("h1, main")) return;
    if ((event.key === "j" || event.key === "k") && moveInList(event.key === "j" ? 1 : -1)) return event.preventDefault();
    const element = withKey(event.key);
    if (element) act(element, event);
  }

  function submitAround(event) {
    const form = event.target.closest?.("form") ?? edited();
    if (!form) return;
    event.preventDefault();
    form.requestSubmit(form.querySelector("[data-saves]") ?? undefined);
  }

  function escaped(event, typing) {
    const panel = document.querySelector("details.panel[open]");
    if (panel) {
      panel.open = false;
      panel.querySelector("summary").focus();
    } else if (typing) {
      event.target.blur();
      document.querySelector("main h1")?.focus();
    }
  }

  // --- the help: a page of its own, shown over this one where a script runs ---

  function clicked(event) {
    const opener = event.target.closest?.("[data-dialog]");
    const dialog = opener && document.getElementById(opener.dataset.dialog);
    if (dialog) {
      event.preventDefault();
      dialog.open ? dialog.close() : dialog.showModal();
    }
    const all = event.target.closest?.("[data-all]");
    if (all) for (const box of document.querySelectorAll(`input[name="${all.dataset.all}"]`)) box.checked = all.checked;
    for (const panel of document.querySelectorAll("details.panel[open]")) {
      if (!panel.contains(event.target)) panel.open = false;
    }
  }

  // --- what htmx brings: pages are put in place, anything else is said ---

  function arrived(event) {
    const raw = event.detail?.ctx?.response?.raw;
    const kind = raw?.headers.get("Content-Type") ?? "";
    if (!raw || kind.includes("text/html") || kind.includes("event-stream")) return;
    event.preventDefault();
    raw.json().then((told) => say(told.detail), () => say(`The server answered ${raw.status}.`));
  }

  let subject;

  // The caret stays where it is only while the same record is on the page: on the next one it would type into an answer.
  function settled() {
    warnedOf = "";
    const place = main();
    if (!place) return;
    const now = place.querySelector("[data-request]")?.dataset.request ?? location.pathname;
    const isSame = now === subject;
    subject = now;
    if (isSame && place.contains(document.activeElement)) return;
    say("");
    (place.querySelector("[autofocus]") ?? place.querySelector("[role=alert]") ?? place.querySelector("h1"))?.focus();
  }

  document.addEventListener("keydown", pressed);
  document.addEventListener("input", markEdited);
  document.addEventListener("click", clicked);
  document.addEventListener("htmx:before:response", arrived);
  document.addEventListener("htmx:after:swap", settled);
  document.addEventListener("htmx:error", () => say("The server cannot be reached just now."));
  document.addEventListener("DOMContentLoaded", () => {
    document.documentElement.classList.add("scripted");
    settled();
  });
})();
