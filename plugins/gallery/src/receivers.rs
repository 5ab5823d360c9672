//! Exhibits about what a receiver keeps of an earlier attempt.

use outbox_handler::followups::{self, NewItem};
use outbox_handler::{Failure, Item, http, state};
use serde_json::{Value, json};

use crate::{Twin, post, put, url};

/// Takes a lock, works, and gives the lock back. The lock of an attempt that crashed is still taken, and the next
/// attempts wait for it. The twin asks who holds it, and goes on when that is its own item.
pub(crate) fn lock_left_behind(item: &Item, twin: Twin) -> Result<(), Failure> {
    let lock = http::Request::new("PUT", url("/locks/7")).json(&json!({ "holder": item.idem_key }))?.send()?;
    if lock.status != 423 {
        lock.ok_or_failure()?;
        return work_and_unlock(item);
    }
    // guard begin
    if twin.is_fixed() && holder()? == Some(item.idem_key.clone()) {
        return work_and_unlock(item);
    }
    // guard end
    Err(Failure::retryable("shelf.locked", "somebody else is at work"))
}

fn work_and_unlock(item: &Item) -> Result<(), Failure> {
    post("/moves", item.payload.clone())?;
    let released = http::Request::new("DELETE", url(&format!("/locks/7?holder={}", item.idem_key))).send()?;
    // An attempt before this one has released it.
    if released.status == 404 { Ok(()) } else { released.ok_or_failure().map(drop) }
}

fn holder() -> Result<Option<String>, Failure> {
    let answer = http::get(url("/locks/7")).send()?;
    if answer.status == 404 {
        return Ok(None);
    }
    let lock: Value = answer.ok_or_failure()?.json()?;
    Ok(lock["holder"].as_str().map(str::to_owned))
}

/// Uploads a file, and aborts the upload when a part fails: under its key, the next attempt gets the aborted upload. The
/// twin leaves it open and goes on with it.
pub(crate) fn aborted_upload_returns(_: &Item, twin: Twin) -> Result<(), Failure> {
    let upload: Value = http::post(url("/uploads")).body("invoice-17.pdf").send()?.ok_or_failure()?.json()?;
    let upload = format!("/uploads/{}", upload["id"].as_str().unwrap_or_default());
    let sent = ["1", "2"].into_iter().try_for_each(|part| put(&format!("{upload}/parts/{part}"), part));
    let aborts = sent.is_err();
    let aborts = twin.choose(aborts, false); // guard
    if aborts {
        http::Request::new("DELETE", url(&upload)).send()?.ok_or_failure()?;
    }
    sent?;
    post(&format!("{upload}/complete"), "")
}

/// Fails when a batch is accepted in part, to have it tried again: under its key, the batch has the same answer for
/// ever. The twin sends what was not accepted one by one.
pub(crate) fn batch_answer_kept(_: &Item, twin: Twin) -> Result<(), Failure> {
    let answer: Value = http::post(url("/batches")).body("ann bob eve").send()?.ok_or_failure()?.json()?;
    let rejected: Vec<String> = serde_json::from_value(answer["rejected"].clone())?;
    // guard begin
    if twin.is_fixed() {
        return rejected.iter().try_for_each(|name| post(&format!("/mails/{name}"), "your invoice"));
    }
    // guard end
    if rejected.is_empty() { Ok(()) } else { Err(Failure::retryable("batch.partial", rejected.join(", "))) }
}

/// Takes the next code when a code is taken, also by its own coupon of an earlier attempt. The twin asks whose coupon it
/// is: its own is what it wanted, and one that nobody has yet is being made.
pub(crate) fn suffix_on_conflict(item: &Item, twin: Twin) -> Result<(), Failure> {
    for code in ["ANN10", "ANN10-2", "ANN10-3"] {
        let coupon = json!({ "code": code, "order": item.idem_key });
        let answer = http::post(url("/coupons")).effect(code).json(&coupon)?.send()?;
        if answer.status != 409 {
            return answer.ok_or_failure().map(drop);
        }
        let owner = owner_of(code)?;
        // guard begin
        if twin.is_fixed() && owner.as_ref() == Some(&item.idem_key) {
            return Ok(());
        }
        // guard end
        // guard begin
        if twin.is_fixed() && owner.is_none() {
            return Err(Failure::retryable("code.busy", "the coupon is being made"));
        }
        // guard end
    }
    Err(Failure::permanent("codes.taken", "all codes are taken"))
}

/// The order that a coupon was made for, if there is such a coupon.
fn owner_of(code: &str) -> Result<Option<String>, Failure> {
    let answer = http::get(url(&format!("/coupons/{code}"))).send()?;
    if answer.status == 404 {
        return Ok(None);
    }
    let coupon: Value = answer.ok_or_failure()?.json()?;
    Ok(coupon["order"].as_str().map(str::to_owned))
}

/// Welcomes a contact that its receiver says to have made: after a crash it has the contact already. The twin notes whom
/// it has welcomed in its state, which is committed together with the welcome.
pub(crate) fn welcome_on_created(item: &Item, twin: Twin) -> Result<(), Failure> {
    let written = http::Request::new("PUT", url("/contacts/ann")).body(item.payload.clone()).send()?.ok_or_failure()?;
    let mut is_new = written.status == 201;
    // guard begin
    if twin.is_fixed() {
        is_new = state::get("welcomed/ann")?.is_none();
        state::put("welcomed/ann", b"yes")?;
    }
    // guard end
    if is_new { followups::emit(&NewItem::json("receipt", &"ann")?) } else { Ok(()) }
}

/// Refunds what comes after the place in a list that the receiver keeps, and moves the place before it refunds. The twin
/// moves it last.
pub(crate) fn cursor_moves_first(_: &Item, twin: Twin) -> Result<(), Failure> {
    let place: Value = http::get(url("/returns/place")).send()?.ok_or_failure()?.json()?;
    let seen = place["seen"].as_u64().unwrap_or_default();
    let returns: Vec<String> = http::get(url(&format!("/returns?skip={seen}"))).send()?.ok_or_failure()?.json()?;
    if returns.is_empty() {
        return Ok(());
    }
    let move_on = || put("/returns/place", json!({ "seen": seen + returns.len() as u64 }).to_string());
    let refund = || returns.iter().try_for_each(|order| post(&format!("/orders/{order}/refund"), ""));
    // guard begin
    if twin.is_fixed() {
        refund()?;
        return move_on();
    }
    // guard end
    move_on()?;
    refund()
}
