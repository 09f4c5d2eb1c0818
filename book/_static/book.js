// Names that the theme leaves out, for those who hear a page, and keys for those who scroll a block without a mouse.
document.addEventListener("DOMContentLoaded", () => {
  for (const fold of document.querySelectorAll(".bd-sidenav summary")) {
    fold.setAttribute("aria-label", "Pages below " + fold.closest("li").querySelector("a").textContent.trim());
  }
  for (const search of document.querySelectorAll(".search-button-field")) search.ariaLabel = "Search Ctrl + K";
  for (const theme of document.querySelectorAll(".theme-switch-button")) {
    theme.ariaLabel = "Color mode: Light, Dark, System Settings";
  }
  // Its visible words say what it does; the label says others.
  for (const fold of document.querySelectorAll("details.hide > summary")) fold.removeAttribute("aria-label");
  for (const list of document.querySelectorAll(".citation-list")) list.removeAttribute("role");
  const scrolling = "table.dataframe, .pst-scrollable-table-container, div.math, .bd-article pre";
  for (const block of document.querySelectorAll(scrolling)) block.tabIndex = 0;
});
