//! A form that a page sent: its fields, and the proof that the page is one of this host.
//!
//! A page of another site can make a browser send a form, but can neither read the token of a page of this host nor
//! choose what the browser says about where the form comes from.

use std::sync::Arc;

use axum::extract::{FromRequest, FromRequestParts as _, Request};
use axum::http::{HeaderMap, HeaderName};
use axum::response::{IntoResponse, Response};

use crate::access::{FormProof, check_page, form_owner};
use crate::body::{self, BodyResult, FORM, RequestBody};
use crate::page::visit::Visit;
use crate::problem::ApiError;
use crate::server_state::ServerState;

/// The field with the proof.
pub(super) const TOKEN: &str = "form_token";

/// A form of a page, and who sent it.
pub(super) struct Form {
    pub(super) visit: Visit,
    pub(super) fields: FormFields,
}

/// A form whose page was made too long ago. It goes with its refusal, so that its page can be shown again.
#[derive(Clone)]
pub(super) struct LateForm(pub(super) Arc<Form>);

impl LateForm {
    fn refused(form: Form) -> Response {
        let mut refusal = ApiError::ExpiredForm.into_response();
        refusal.extensions_mut().insert(Self(Arc::new(form)));
        refusal
    }
}

/// Names and values, as they were filled in. A name can occur several times.
pub(super) struct FormFields(Vec<(String, String)>);

impl FormFields {
    /// The fields of a form or of the query of an address.
    pub(super) fn new(fields: Vec<(String, String)>) -> Self {
        Self(fields)
    }

    /// The first value of the field; `None` where it is empty.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.trim()).filter(|value| !value.is_empty())
    }

    /// The first value of the field with its white space; `None` where the form has no such field.
    pub(super) fn exact(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Every value of the field.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// All fields that have a value.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let pairs = self.0.iter().map(|(name, value)| (name.as_str(), value.trim()));
        pairs.filter(|(_, value)| !value.is_empty())
    }
}

impl FromRequest<Arc<ServerState>> for Form {
    type Rejection = Response;

    async fn from_request(request: Request, state: &Arc<ServerState>) -> Result<Self, Response> {
        let form = Self::read(request, state).await.map_err(IntoResponse::into_response)?;
        match form.proof() {
            FormProof::Valid => Ok(form),
            FormProof::Expired => Err(LateForm::refused(form)),
            FormProof::Foreign => Err(ApiError::CrossSite.into_response()),
        }
    }
}

impl Form {
    /// The form as it was sent by a page of this host, or by a program.
    async fn read(request: Request, state: &Arc<ServerState>) -> Result<Self, ApiError> {
        let (mut parts, body) = request.into_parts();
        let visit = Visit::from_request_parts(&mut parts, state).await?;
        let body = RequestBody::from_request(Request::from_parts(parts, body), state).await;
        check_page(&visit.headers, &visit.uri)?;
        let fields = fields(&visit.headers, body)?;
        Ok(Self { visit, fields })
    }

    fn proof(&self) -> FormProof {
        let Visit { state, settings, caller, now, .. } = &self.visit;
        let given = self.fields.get(TOKEN).unwrap_or_default();
        state.sessions.check_form_token(&settings.access, &form_owner(caller), given, *now)
    }
}

/// Whether a page of another site caused the request.
pub(super) fn is_from_elsewhere(headers: &HeaderMap) -> bool {
    let site = headers.get(HeaderName::from_static("sec-fetch-site")).and_then(|site| site.to_str().ok());
    !matches!(site, None | Some("same-origin" | "none"))
}

/// The names and values of a body that is a form.
pub(super) fn fields(headers: &HeaderMap, body: BodyResult) -> Result<FormFields, ApiError> {
    match body::media_type(headers) {
        given if given == FORM => serde_urlencoded::from_bytes(&body::read(body)?)
            .map(FormFields::new)
            .map_err(|_| ApiError::Invalid("the body is no form".into())),
        given => Err(ApiError::WrongContentType { given, accepted: FORM }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_another_site_causes_is_known() {
        for (site, is_elsewhere) in [("same-origin", false), ("none", false), ("cross-site", true), ("same-site", true)]
        {
            let headers = HeaderMap::from_iter([(HeaderName::from_static("sec-fetch-site"), site.parse().unwrap())]);
            assert_eq!(is_from_elsewhere(&headers), is_elsewhere, "{site}");
        }
        assert!(!is_from_elsewhere(&HeaderMap::new()));
    }
}
