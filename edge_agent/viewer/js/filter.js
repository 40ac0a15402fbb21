// Which findings are shown. Pure: no page in here.

/** The settings at the start: each finding's own threshold, every kind. */
export function defaults() {
  return { threshold: null, hiddenKinds: new Set() };
}

/** The score from which a kind is shown. */
export function thresholdOf(slug, settings, points) {
  return settings.threshold ?? points.get(slug) ?? 0;
}

/** Whether a finding reaches its own operating point. */
export function reachesOwn(finding, points) {
  return finding.score >= (points.get(finding.slug) ?? 0);
}

/** Whether the settings show a finding. */
export function isShown(finding, settings, points) {
  return (
    !settings.hiddenKinds.has(finding.slug) &&
    finding.score >= thresholdOf(finding.slug, settings, points)
  );
}

/** Whether anything is set otherwise than at the start. */
export function isChanged(settings) {
  return settings.threshold !== null || settings.hiddenKinds.size > 0;
}
