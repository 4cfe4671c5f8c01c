// What the theme leaves out for readers who use the keyboard or a screen reader.
function describe() {
  document.querySelectorAll(".caption[role=heading]").forEach((e) => e.setAttribute("aria-level", "2"));
  document.querySelectorAll("pre, .table-wrapper, .output").forEach((e) => {
    if (e.scrollWidth > e.clientWidth) e.tabIndex = 0; // scrolls, so keys must reach it
  });
}
addEventListener("DOMContentLoaded", describe);
addEventListener("load", describe);
addEventListener("resize", describe);
