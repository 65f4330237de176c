// Of everything that can be read: what it is, its contrast with what lies behind it (WCAG 2), and the least that it must be.
() => {
  const least = { text: 4.5, part: 3 };

  const channels = (colour) => colour.match(/[\d.]+/g).map(Number);
  const linear = (channel) => (channel <= 0.03928 ? channel / 12.92 : ((channel + 0.055) / 1.055) ** 2.4);
  const luminance = (colour) => {
    const [r, g, b] = colour.map((channel) => linear(channel / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (one, other) => {
    const [dark, light] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (light + 0.05) / (dark + 0.05);
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = channels(getComputedStyle(at).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour.slice(0, 3);
    }
    return [255, 255, 255];
  };
  const told = (element, colour, ground, kind) => [
    `${kind} of ${element.outerHTML.slice(0, 80)}`, ratio(channels(colour).slice(0, 3), behind(ground)), least[kind],
  ];

  const found = [];
  for (const element of document.querySelectorAll("body :not(script, .unseen)")) {
    if (!element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const hasText = [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim());
    if (hasText || element.matches("textarea, input")) found.push(told(element, style.color, element, "text"));
    const isFramed = element.matches("textarea, input[type=number], input[type=password], button:not(.link)");
    if (isFramed) found.push(told(element, style.borderTopColor, element.parentElement, "part"));
    if (element.matches(".bar i, .dot")) found.push(told(element, style.backgroundColor, element.parentElement, "part"));
  }
  return found;
}
