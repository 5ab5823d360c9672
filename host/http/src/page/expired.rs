//! A form whose page was made too long ago: it is not carried out, and its page comes back with what was typed.

use axum::response::Response;

use crate::page::form::Form;
use crate::page::{act, anew, controls};
use crate::problem::ApiError;

/// The page of the form again, which says that the form came too late. Of a form with nothing to keep, the problem.
pub(super) async fn shown_again(Form { visit, fields }: &Form) -> Result<Response, ApiError> {
    let late = ApiError::ExpiredForm;
    match visit.uri.path().split('/').collect::<Vec<_>>()[..] {
        ["", "cockpit", "items", id, "anew"] => anew::refused(visit, id, fields, &late).await,
        ["", "cockpit", "act", _] => act::refused(visit, fields, late).await,
        ["", "cockpit", "control", _] => controls::refused(visit, fields, late).await,
        _ => Err(late),
    }
}
