
"use strict";
(() => {
  const $ = (selector) => document.querySelector(selector);
  const body = $(".list tbody");
  const films = [...body.rows];
  const heads = [...document.querySelectorAll(".list th")];
  const pictures = () => [...document.querySelectorAll(".film:not([hidden]) .picture:enabled")];
  let order = "";

  function say() {
    const shown = films.filter((film) => !film.hidden).length;
    $("#none").hidden = shown > 0 || films.length === 0;
    $("#status").textContent = `${shown} of ${films.length} films${order}`;
  }

  function filter() {
    const words = $("#find").value.toLowerCase().split(/\s+/).filter(Boolean);
    const [kind, wanted] = $("#show").value.split(/:(.*)/s);
    const newest = $("#newest")?.checked;
    for (const film of films) {
      const data = film.dataset;
      const text = data.text.toLowerCase();
      film.hidden = !(
        words.every((word) => text.includes(word)) &&
        (kind === "" || (kind === "person" ? data.person === "1" : data[kind] === wanted)) &&
        (!newest || data.newest === "1")
      );
    }
    say();
  }

  function compare(key, sign) {
    const byText = new Intl.Collator(undefined, { numeric: true }).compare;
    return (a, b) => {
      const [x, y] = [a.dataset[key], b.dataset[key]];
      if (x === "" || y === "") return (x === "") - (y === "") || a.dataset.place - b.dataset.place;
      return sign * (key === "name" ? byText(x, y) : x - y) || a.dataset.place - b.dataset.place;
    };
  }

  function sort(button) {
    const head = button.closest("th");
    const { key, first } = button.dataset;
    const other = first === "ascending" ? "descending" : "ascending";
    const now = head.ariaSort === first ? other : first;
    for (const each of heads) each.ariaSort = each === head ? now : "none";
    films.sort(compare(key, now === "ascending" ? 1 : -1));
    body.append(...films);
    order = `, by ${button.textContent.toLowerCase()}, ${now}`;
    say();
  }

  function press(button, on) {
    button.setAttribute("aria-pressed", on);
  }

  for (const head of heads) head.firstElementChild.addEventListener("click", (event) => sort(event.currentTarget));
  for (const id of ["#find", "#show", "#newest"]) $(id)?.addEventListener("input", filter);
  $(".tools").addEventListener("submit", (event) => event.preventDefault());
  $("#maps").addEventListener("click", (event) => {
    const on = event.currentTarget.ariaPressed !== "true";
    press(event.currentTarget, on);
    for (const button of document.querySelectorAll(".picture:enabled")) press(button, on);
  });
  body.addEventListener("click", (event) => {
    const button = event.target.closest(".picture");
    if (button) press(button, button.ariaPressed !== "true");
  });
  body.addEventListener("keydown", (event) => {
    const all = pictures();
    const here = all.indexOf(event.target);
    const there = { ArrowDown: here + 1, ArrowUp: here - 1, Home: 0, End: all.length - 1 }[event.key];
    if (here < 0 || there === undefined || !all[there]) return;
    event.preventDefault();
    all[there].focus();
    all[there].closest(".film").scrollIntoView({ block: "nearest" });
  });
  say();
})();
