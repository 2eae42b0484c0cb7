// Pointing at a task marks the places it is made of, and the other way round.
document.querySelectorAll(".lesson").forEach((lesson) => {
  const point = (names, on) => {
    for (const name of names) {
      lesson.querySelectorAll(`.mined.${name}, [data-task="${name}"]`)
        .forEach((element) => element.classList.toggle("pointed", on));
    }
  };
  lesson.querySelectorAll(".mined, [data-task]").forEach((element) => {
    const names = element.dataset.task ? [element.dataset.task]
      : [...element.classList].filter((name) => /^t\d+$/.test(name));
    element.addEventListener("mouseenter", () => point(names, true));
    element.addEventListener("mouseleave", () => point(names, false));
  });
});
