//! Plugins: which version each process runs, what keeps a newer one from running and what would cure it.

use std::collections::BTreeSet;

use askama::Template;
use axum::response::Response;

use outbox_core::{PluginLimits, PluginRuns, PluginState, PluginStatus};
use outbox_store::{AuditQuery, HistoryFigures, Overview, Pod, QuarantineRecord};

use crate::glance::Glance;
use crate::page::frame::{Frame, Tab};
use crate::page::item::query;
use crate::page::pods::plugin_state;
use crate::page::troubles::{Trouble, troubles};
use crate::page::types::claim_limits;
use crate::page::visit::{Visit, shown};
use crate::page::words::{Ago, begun, bytes, count, lasted, share, short_digest, span_ms, within};
use crate::problem::ApiError;

/// Entries of the history of plugins.
const ENTRIES: u32 = 20;
/// Grants of a plugin that are shown at once.
const GRANTS: usize = 4;

/// The view, as its template reads it.
#[derive(Template)]
#[template(path = "plugins.html")]
struct PluginsPage {
    frame: Frame,
    opening: String,
    rows: Vec<VersionRow>,
    troubles: Vec<TroubleRow>,
    quarantined: Vec<QuarantinedRow>,
    history: Vec<PluginEvent>,
}

/// One version of a plugin in one process.
struct VersionRow {
    name: String,
    role: String,
    pod: String,
    class: &'static str,
    state: &'static str,
    digest: String,
    version: String,
    generation: String,
    types: Vec<TypeFigures>,
    /// What it may do, how much it may use, and what its attempts came to.
    terms: Vec<Term>,
    rollback: Option<String>,
}

/// A line about a plugin: what it is about, and the words.
struct Term {
    about: &'static str,
    words: String,
    /// Further ones, which a click opens.
    more: Vec<String>,
}

/// How a type of a plugin fares.
struct TypeFigures {
    name: String,
    done: String,
    failing: String,
    p95: String,
}

/// Why a file does not run as it is.
struct TroubleRow {
    name: String,
    places: String,
    text: String,
}

/// A component that no process runs.
struct QuarantinedRow {
    plugin: String,
    digest: String,
    reason: String,
    at: Ago,
    release: String,
}

/// What an operator or a host did to a component.
struct PluginEvent {
    at: Ago,
    actor: String,
    action: String,
    what: String,
    reason: String,
}

/// The view.
pub(super) async fn plugins(visit: Visit) -> Result<Response, ApiError> {
    let glance = visit.glance().await?;
    let rows: Vec<_> = versions(&glance.overview).map(|(pod, plugin)| version_row(pod, plugin, &glance)).collect();
    let troubles = troubles(&glance.overview);
    shown(&PluginsPage {
        frame: visit.live_frame("Plugins", Tab::Plugins),
        opening: opening(&glance.overview, &troubles),
        rows,
        troubles: troubles.iter().map(trouble_row).collect(),
        quarantined: quarantined(&visit, &glance).await?,
        history: history(&visit, &glance).await?,
    })
}

fn versions(overview: &Overview) -> impl Iterator<Item = (&Pod, &PluginStatus)> {
    overview.reporting_pods().flat_map(|pod| pod.plugins.iter().map(move |plugin| (pod, plugin)))
}

fn opening(overview: &Overview, troubles: &[Trouble<'_>]) -> String {
    let pods = overview.reporting_pods().filter(|pod| !pod.plugins.is_empty()).count();
    let names: BTreeSet<_> = versions(overview).map(|(_, plugin)| &plugin.name).collect();
    let off_file: BTreeSet<_> = troubles.iter().map(|trouble| &trouble.plugin.name).collect();
    let processes = if pods == 1 { "one process".to_owned() } else { format!("{pods} processes") };
    let run = format!("{} in {processes}", begun(names.len(), "plugin"));
    match off_file.len() {
        0 if names.is_empty() => "No running process has a plugin".to_owned(),
        0 => format!("{run}, all as their files say"),
        1 => format!("{run}, one not as its file says"),
        off_file => format!("{run}, {off_file} not as their files say"),
    }
}

fn version_row(pod: &Pod, plugin: &PluginStatus, glance: &Glance) -> VersionRow {
    let (class, state) = plugin_state(plugin);
    let can_return = plugin.state == PluginState::Active && plugin.previous.is_some();
    VersionRow {
        name: plugin.name.clone(),
        role: plugin.role.clone().unwrap_or_default(),
        pod: pod.instance.clone(),
        class,
        state,
        digest: plugin.digest.as_deref().map_or("–".to_owned(), short_digest),
        version: plugin.version.clone().unwrap_or_default(),
        generation: plugin.generation.map_or("–".to_owned(), |number| number.to_string()),
        types: plugin.types.iter().map(|name| type_figures(name, glance)).collect(),
        terms: terms(plugin),
        rollback: plugin.digest.as_ref().filter(|_| can_return).map(|digest| control("rollback", &plugin.name, digest)),
    }
}

/// The grants, the limits and the attempts of a plugin that is loaded; nothing of one that is not.
fn terms(plugin: &PluginStatus) -> Vec<Term> {
    let Some(limits) = &plugin.limits else { return Vec::new() };
    let (shown, more) = plugin.grants.split_at(plugin.grants.len().min(GRANTS));
    let grants = if shown.is_empty() { "nothing but compute".to_owned() } else { shown.join("; ") };
    let lines = [("limits", limits_in_words(limits)), ("attempts", runs_in_words(&plugin.runs))];
    let lines = lines.map(|(about, words)| Term { about, words, more: Vec::new() });
    [Term { about: "may", words: grants, more: more.to_vec() }].into_iter().chain(lines).collect()
}

fn limits_in_words(limits: &PluginLimits) -> String {
    let each = format!("{} of CPU and {} of memory for an attempt", duration(limits.cpu_ms), bytes(limits.memory));
    claim_limits(limits).into_iter().fold(each, |words, limit| format!("{words}, {limit}"))
}

fn runs_in_words(PluginRuns { attempts, cpu_ms, faults }: &PluginRuns) -> String {
    if *attempts == 0 {
        return "none since it was loaded".to_owned();
    }
    let micros = cpu_ms.saturating_mul(1000) / attempts;
    let cpu =
        if micros < 10_000 { format!("{}.{} ms", micros / 1000, micros % 1000 / 100) } else { duration(micros / 1000) };
    format!("{}, {cpu} of CPU each, {} of the component", count(*attempts), within(*faults, "fault"))
}

fn duration(ms: u64) -> String {
    span_ms(i64::try_from(ms).unwrap_or(i64::MAX))
}

fn type_figures(name: &str, glance: &Glance) -> TypeFigures {
    let sum = glance.history.types.get(name).map(|series| series.sum.clone()).unwrap_or_default();
    let HistoryFigures { done, failed, p95_ms, .. } = sum;
    TypeFigures { name: name.to_owned(), done: count(done), failing: share(failed, done + failed), p95: lasted(p95_ms) }
}

fn trouble_row(trouble: &Trouble<'_>) -> TroubleRow {
    TroubleRow { name: trouble.plugin.name.clone(), places: trouble.places(), text: trouble.text.clone() }
}

/// The components in quarantine, newest first.
async fn quarantined(visit: &Visit, glance: &Glance) -> Result<Vec<QuarantinedRow>, ApiError> {
    let row = |QuarantineRecord { digest, plugin, reason, at, .. }: QuarantineRecord| QuarantinedRow {
        digest: short_digest(&digest),
        reason,
        at: Ago::of(at, glance.overview.now),
        release: control("release", &plugin, &digest),
        plugin,
    };
    let newest = visit.state.inspect.list_quarantine().await?.into_iter().take(ENTRIES as usize);
    Ok(newest.map(row).collect())
}

/// The address of the page that rolls a component back or releases it.
fn control(word: &str, plugin: &str, digest: &str) -> String {
    let fields = [("plugin", plugin), ("digest", digest)];
    format!("cockpit/control/{word}?{}", serde_urlencoded::to_string(fields).unwrap_or_default())
}

/// What the audit trail says about components, newest first.
async fn history(visit: &Visit, glance: &Glance) -> Result<Vec<PluginEvent>, ApiError> {
    let (now, sight) = (glance.overview.now, visit.sight());
    let mut events = Vec::new();
    for action in ["rollback", "quarantine", "switch", "release-plugin"] {
        let query = AuditQuery { action: Some(action.to_owned()), limit: ENTRIES, ..AuditQuery::default() };
        events.extend(visit.state.inspect.audit(&query).await?);
    }
    events.sort_by_key(|entry| std::cmp::Reverse(entry.seq));
    events.truncate(ENTRIES as usize);
    let event = |entry: outbox_store::AuditEntry| PluginEvent {
        at: Ago::of(entry.at, now),
        actor: entry.actor,
        action: entry.action,
        what: match sight.json(entry.selection).0 {
            serde_json::Value::String(text) => text,
            other => other.to_string(),
        },
        reason: entry.reason.unwrap_or_default(),
    };
    Ok(events.into_iter().map(event).collect())
}
