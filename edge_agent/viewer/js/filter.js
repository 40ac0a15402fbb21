// Decides which findings are shown. Pure functions, without the DOM.

/** Return the initial settings: each finding's own threshold, all kinds shown. */
export function defaultSettings() {
  return { threshold: null, hiddenKinds: new Set() };
}

/** Return the lowest score at which a kind is shown. */
export function thresholdOf(slug, settings, points) {
  return settings.threshold ?? points.get(slug) ?? 0;
}

/** Return true if a finding reaches its own operating point. */
export function reachesOwnThreshold(finding, points) {
  return finding.score >= (points.get(finding.slug) ?? 0);
}

/** Return true if the settings show a finding. */
export function isShown(finding, settings, points) {
  return (
    !settings.hiddenKinds.has(finding.slug) &&
    finding.score >= thresholdOf(finding.slug, settings, points)
  );
}

/** Return true if the settings differ from the initial ones. */
export function isChanged(settings) {
  return settings.threshold !== null || settings.hiddenKinds.size > 0;
}
