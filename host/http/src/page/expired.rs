//! A form whose page was made too long ago: it is not carried out, and its page comes back with what was typed.

use axum::response::{IntoResponse, Response};

use crate::page::form::{Form, LateForm};
use crate::page::{act, anew, controls};
use crate::problem::ApiError;

/// The answer, or, where it refuses a form that came too late, the page of the form.
pub(super) async fn show_again(mut answer: Response) -> Response {
    match answer.extensions_mut().remove() {
        Some(LateForm(form)) => page_of(&form).await.unwrap_or_else(IntoResponse::into_response),
        None => answer,
    }
}

/// The page of the form, which says that the form came too late. Of a form with nothing to keep, the problem.
async fn page_of(Form { visit, fields }: &Form) -> Result<Response, ApiError> {
    let late = ApiError::ExpiredForm;
    match visit.uri.path().split('/').collect::<Vec<_>>()[..] {
        ["", "cockpit", "items", id, "anew"] => anew::refused(visit, id, fields, &late).await,
        ["", "cockpit", "act", _] => act::refused(visit, fields, late).await,
        ["", "cockpit", "control", _] => controls::refused(visit, fields, late).await,
        _ => Err(late),
    }
}
