// Typesets the formulas that pymdownx.arithmatex has marked. Without it their LaTeX source stays on the page.
document$.subscribe(({ body }) =>
  renderMathInElement(body, {
    delimiters: [
      { left: "\\(", right: "\\)", display: false },
      { left: "\\[", right: "\\]", display: true },
    ],
  })
);
