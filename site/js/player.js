/** One player for several versions of one recording. This file has no imports: the evaluation's page contains it. */

/**
 * Plays one version at a time. Another version goes on where the one before was, so that they can be compared.
 *
 * Events: "change" when the version or whether it plays has changed, "time" while it plays, "fail" when a version cannot
 * be played.
 */
export class Player extends EventTarget {
  constructor() {
    super();
    /** @type {Map<string, string>} */
    this.sources = new Map();
    /** Only the versions heard so far are open: a page may have hundreds. @type {Map<string, HTMLAudioElement>} */
    this.elements = new Map();
    /** @type {string | null} */
    this.selected = null;
    this.playing = false;
  }

  /**
   * Take another recording's versions. Nothing is selected or played then.
   * @param {Map<string, string>} sources the address of each version by its name
   */
  load(sources) {
    this.pause();
    for (const element of this.elements.values()) element.removeAttribute("src");
    this.elements.clear();
    this.sources = sources;
    this.selected = null;
    this.announce("change");
  }

  /**
   * Choose the version to hear, at the present position.
   * @param {string} name
   */
  select(name) {
    if (name === this.selected) return;
    const position = this.position;
    const before = this.current;
    this.selected = name;
    const element = this.element(name);
    element.currentTime = position;
    if (this.playing) this.start(element);
    before?.pause();
    this.announce("change");
  }

  /** Open the versions beforehand, so that changing between them takes no time. */
  open() {
    for (const name of this.sources.keys()) this.element(name).preload = "auto";
  }

  play() {
    if (!this.current || this.playing) return;
    if (this.current.ended) this.current.currentTime = 0;
    this.playing = true;
    this.start(this.current);
    this.announce("change");
  }

  pause() {
    if (!this.playing) return;
    this.playing = false;
    this.current?.pause();
    this.announce("change");
  }

  toggle() {
    if (this.playing) this.pause();
    else this.play();
  }

  /** @param {number} seconds */
  seek(seconds) {
    if (!this.current) return;
    this.current.currentTime = seconds;
    this.announce("time");
  }

  get current() {
    return this.selected === null ? null : this.elements.get(this.selected);
  }

  get position() {
    return this.current?.currentTime ?? 0;
  }

  /** Seconds, 0 while unknown. */
  get duration() {
    return Number.isFinite(this.current?.duration) ? this.current.duration : 0;
  }

  /** @param {string} name @returns {HTMLAudioElement} */
  element(name) {
    const existing = this.elements.get(name);
    if (existing) return existing;
    const element = new Audio(this.sources.get(name));
    this.elements.set(name, element);
    const ours = () => this.elements.get(name) === element && name === this.selected;
    element.addEventListener("timeupdate", () => ours() && this.announce("time"));
    element.addEventListener("loadedmetadata", () => ours() && this.announce("time"));
    element.addEventListener("ended", () => ours() && this.pause());
    element.addEventListener("error", () => ours() && this.fail());
    return element;
  }

  start(element) {
    element.play().catch((error) => {
      // A pause before the sound began is no failure; an unreadable file fires "error" as well.
      if (error.name === "NotAllowedError" && element === this.current) this.fail();
    });
  }

  fail() {
    this.playing = false;
    this.announce("fail");
    this.announce("change");
  }

  announce(name) {
    this.dispatchEvent(new Event(name));
  }
}

/** @param {number} seconds @returns {string} such as 1:05 */
export function clock(seconds) {
  const whole = Math.floor(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}
