//! What surrounds every view: the environment, the way to the other views, who is logged in.
//!
//! Every link is relative, so that the pages work below any path of a proxy. This file knows no view.

use axum::http::Uri;

use crate::access::{Caller, Right};
use crate::page::assets;
use crate::state::HttpSettings;

/// A view of the navigation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tab {
    Overview,
    Items,
    Failures,
    Plugins,
    Operations,
    /// None of them.
    None,
}

/// A link of the navigation.
pub(super) struct TabLink {
    pub(super) name: &'static str,
    pub(super) path: &'static str,
    pub(super) is_here: bool,
}

/// What the layout of every view shows.
#[expect(clippy::struct_excessive_bools, reason = "each is a part of the layout that is shown or not")]
pub(super) struct Frame {
    /// The name of the view.
    pub(super) title: String,
    /// The way to the root of the host, such as `../`.
    pub(super) root: String,
    /// `OUTBOX_ENVIRONMENT`.
    pub(super) environment: Option<String>,
    /// The class of the environment's colour.
    pub(super) colour: &'static str,
    pub(super) tabs: Vec<TabLink>,
    /// The name of the caller, where the host asks for one.
    pub(super) caller: Option<String>,
    /// Whether there is a session to end.
    pub(super) has_session: bool,
    /// Whether everybody who reaches this host may act.
    pub(super) is_open: bool,
    /// Proves that a form is one of this page.
    pub(super) form_token: String,
    pub(super) may_operate: bool,
    /// Whether the view refreshes itself where scripts run.
    pub(super) is_live: bool,
    pub(super) style: &'static str,
    pub(super) script: &'static str,
    pub(super) icon: &'static str,
}

impl Frame {
    /// The frame for somebody who is not known: without a way to other views.
    pub(super) fn bare(title: &str, uri: &Uri, settings: &HttpSettings) -> Self {
        Self {
            title: title.to_owned(),
            root: root(uri),
            environment: settings.environment.clone(),
            colour: settings.environment_colour.as_str(),
            tabs: Vec::new(),
            caller: None,
            has_session: false,
            is_open: false,
            form_token: String::new(),
            may_operate: false,
            is_live: false,
            style: &assets::STYLE.name,
            script: &assets::SCRIPT.name,
            icon: &assets::ICON.name,
        }
    }

    /// The frame for a caller, around the view that the tab leads to.
    #[must_use]
    pub(super) fn with_caller(self, caller: &Caller, here: Tab) -> Self {
        Self {
            tabs: tabs(here),
            caller: caller.name().map(str::to_owned),
            is_open: caller.name().is_none(),
            may_operate: caller.may(Right::Operate),
            ..self
        }
    }
}

fn tabs(here: Tab) -> Vec<TabLink> {
    let all = [
        (Tab::Overview, "Overview", "cockpit"),
        (Tab::Items, "Items", "cockpit/items"),
        (Tab::Failures, "Failures", "cockpit/failures"),
        (Tab::Plugins, "Plugins", "cockpit/plugins"),
        (Tab::Operations, "Operations", "cockpit/operations"),
    ];
    all.map(|(tab, name, path)| TabLink { name, path, is_here: tab == here }).into()
}

/// The way from a path to the root of the host.
fn root(uri: &Uri) -> String {
    let depth = uri.path().matches('/').count().saturating_sub(1);
    if depth == 0 { "./".to_owned() } else { "../".repeat(depth) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_to_the_root_has_a_step_for_each_folder() {
        for (path, way) in
            [("/", "./"), ("/cockpit", "./"), ("/cockpit/items?a=/b/", "../"), ("/cockpit/items/7", "../../")]
        {
            assert_eq!(root(&path.parse().unwrap()), way, "{path}");
        }
    }
}
