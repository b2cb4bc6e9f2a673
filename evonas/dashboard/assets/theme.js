// Runs before the first paint: the chosen theme, or the one of the system, which the server learns by a cookie.
(function () {
  var found = /(?:^|; )evonas-theme=(light|dark)/.exec(document.cookie);
  var dark = window.matchMedia && window.matchMedia("(prefers-color-scheme: dark)").matches;
  var theme = found ? found[1] : dark ? "dark" : "light";
  document.documentElement.dataset.theme = theme;
  if (!found) document.cookie = "evonas-theme=" + theme + "; path=/; SameSite=Strict";
})();
