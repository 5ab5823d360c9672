//! Plugins: which version each process runs, what keeps a newer one from running and what would cure it.

use askama::Template;
use axum::response::Response;

use outbox_core::{PluginState, PluginStatus};
use outbox_store::{AuditQuery, HistoryFigures, Overview, Pod};

use crate::glance::Glance;
use crate::page::frame::{Frame, Tab};
use crate::page::item::query;
use crate::page::pods::plugin_state;
use crate::page::visit::{Visit, shown};
use crate::page::words::{Ago, begun, count, share, short_digest, span_ms};
use crate::problem::ApiError;

/// Entries of the history of plugins.
const ENTRIES: u32 = 20;

/// The view, as its template reads it.
#[derive(Template)]
#[template(path = "plugins.html")]
struct PluginsPage {
    frame: Frame,
    opening: String,
    rows: Vec<VersionRow>,
    troubles: Vec<Trouble>,
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
    rollback: Option<String>,
    release: Option<String>,
}

/// How a type of a plugin fares.
struct TypeFigures {
    name: String,
    done: String,
    failing: String,
    p95: String,
}

/// Why a file does not run as it is.
struct Trouble {
    name: String,
    pod: String,
    text: String,
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
    let troubles: Vec<_> = versions(&glance.overview).filter_map(trouble).collect();
    shown(&PluginsPage {
        frame: visit.live_frame("Plugins", Tab::Plugins),
        opening: opening(&glance.overview, troubles.len()),
        rows,
        troubles,
        history: history(&visit, &glance).await?,
    })
}

fn versions(overview: &Overview) -> impl Iterator<Item = (&Pod, &PluginStatus)> {
    overview.live_pods().flat_map(|pod| pod.plugins.iter().map(move |plugin| (pod, plugin)))
}

fn opening(overview: &Overview, troubles: usize) -> String {
    let pods = overview.live_pods().filter(|pod| !pod.plugins.is_empty()).count();
    let names: std::collections::BTreeSet<_> = versions(overview).map(|(_, plugin)| &plugin.name).collect();
    let run = format!("{} in {pods} process{}", begun(names.len(), "plugin"), if pods == 1 { "" } else { "es" });
    match troubles {
        0 if names.is_empty() => "No running process has a plugin".to_owned(),
        0 => format!("{run}, all as their files say"),
        1 => format!("{run}, one not as its file says"),
        _ => format!("{run}, {troubles} not as their files say"),
    }
}

fn version_row(pod: &Pod, plugin: &PluginStatus, glance: &Glance) -> VersionRow {
    let (class, state) = plugin_state(plugin);
    let control = |word: &str| {
        let digest = plugin.digest.as_deref()?;
        let fields = [("plugin", plugin.name.as_str()), ("digest", digest)];
        Some(format!("cockpit/control/{word}?{}", serde_urlencoded::to_string(fields).unwrap_or_default()))
    };
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
        rollback: control("rollback").filter(|_| can_return),
        release: control("release").filter(|_| plugin.state == PluginState::Quarantined),
    }
}

fn type_figures(name: &str, glance: &Glance) -> TypeFigures {
    let sum = glance.history.types.get(name).map(|series| series.sum.clone()).unwrap_or_default();
    let HistoryFigures { done, failed, p95_ms, .. } = sum;
    TypeFigures {
        name: name.to_owned(),
        done: count(done),
        failing: share(failed, done + failed),
        p95: p95_ms.map_or("–".to_owned(), |ms| span_ms(i64::try_from(ms).unwrap_or(i64::MAX))),
    }
}

fn trouble((pod, plugin): (&Pod, &PluginStatus)) -> Option<Trouble> {
    let text = plugin.trouble()?;
    Some(Trouble { name: plugin.name.clone(), pod: pod.instance.clone(), text })
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
