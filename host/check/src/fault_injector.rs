//! The world of one attempt: counts its calls, causes the disruptions of the attempt, and records the calls.
//!
//! It does not know the other attempts of the run; `scheduled_run.rs` passes what runs during a pause.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use outbox_runtime::simulation::{GuestCall, OutgoingRequest, SimulatedWorld, WorldResponse};

use crate::call_record::{CallRecord, response_status};
use crate::check_report::CallPosition;
use crate::receivers::{Exchange, SimulatedReceivers};
use crate::schedule::{CrashPoint, Disruption, ResponseFault};

/// What runs while an attempt is paused.
pub(crate) type WhilePaused = Box<dyn FnOnce() + Send>;

/// The world of one attempt.
pub(crate) struct FaultInjector {
    receivers: Arc<Mutex<SimulatedReceivers>>,
    delivery: u32,
    disruptions: Vec<Disruption>,
    state: Mutex<InjectorState>,
}

#[derive(Default)]
struct InjectorState {
    /// Every call that the attempt has entered, in order.
    calls: Vec<CallRecord>,
    while_paused: Option<WhilePaused>,
    /// The indexes of the disruptions that have happened.
    reached: BTreeSet<usize>,
}

impl FaultInjector {
    /// The world of delivery number `delivery`, from 1.
    pub(crate) fn new(
        receivers: Arc<Mutex<SimulatedReceivers>>,
        delivery: u32,
        disruptions: Vec<Disruption>,
        while_paused: WhilePaused,
    ) -> Self {
        let state = InjectorState { while_paused: Some(while_paused), ..InjectorState::default() };
        Self { receivers, delivery, disruptions, state: Mutex::new(state) }
    }

    /// The calls of the attempt, in order.
    pub(crate) fn calls(&self) -> Vec<CallRecord> {
        self.state().calls.clone()
    }

    /// The number of disruptions that have happened.
    pub(crate) fn reached(&self) -> usize {
        self.state().reached.len()
    }

    /// The attempt arrives at a point. `Break` means that its process crashes there. A pause happens inside the call.
    pub(crate) fn reach(&self, point: CrashPoint) -> ControlFlow<()> {
        for (index, disruption) in self.disruptions.iter().enumerate() {
            match disruption {
                Disruption::Crash(at) | Disruption::Reload(at) if *at == point => {
                    self.state().reached.insert(index);
                    return ControlFlow::Break(());
                }
                Disruption::OverrunLease(at) if *at == point => self.pause(index),
                _ => {}
            }
        }
        ControlFlow::Continue(())
    }

    fn pause(&self, index: usize) {
        let while_paused = self.state().while_paused.take();
        self.state().reached.insert(index);
        if let Some(while_paused) = while_paused {
            while_paused();
        }
    }

    /// The number of the call whose state another item changes before the commit, if one does.
    pub(crate) fn conflict(&self) -> Option<usize> {
        self.disruptions.iter().enumerate().find_map(|(index, disruption)| match disruption {
            Disruption::Conflict(call) => {
                self.state().reached.insert(index);
                Some(*call)
            }
            _ => None,
        })
    }

    /// The number, from 1, of a call that the attempt has entered and not left.
    fn call_number(&self, call: &GuestCall) -> usize {
        self.state().calls.iter().rposition(|known| known.call == *call).map_or(0, |index| index + 1)
    }

    fn record_exchange(&self, number: usize, exchange: &Exchange) {
        let mut state = self.state();
        if let Some(record) = number.checked_sub(1).and_then(|index| state.calls.get_mut(index)) {
            (record.kind, record.status) = (exchange.kind, response_status(&exchange.response));
            record.value = exchange.value;
        }
    }

    fn fault(&self, number: usize) -> Option<ResponseFault> {
        let is_here = |disruption: &Disruption| matches!(disruption, Disruption::Fault(at, _) if *at == number);
        let index = self.disruptions.iter().position(is_here)?;
        self.state().reached.insert(index);
        match self.disruptions[index] {
            Disruption::Fault(_, fault) => Some(fault),
            _ => None,
        }
    }

    fn state(&self) -> MutexGuard<'_, InjectorState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn receivers(&self) -> MutexGuard<'_, SimulatedReceivers> {
        self.receivers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SimulatedWorld for FaultInjector {
    fn before_call(&self, call: &GuestCall) -> ControlFlow<()> {
        let number = {
            let mut state = self.state();
            state.calls.push(CallRecord::new(call.clone()));
            state.calls.len()
        };
        self.reach(CrashPoint::Before(number))
    }

    fn respond(&self, request: &OutgoingRequest) -> WorldResponse {
        let call = self.call_number(&GuestCall::Request(request.clone()));
        let fault = self.fault(call);
        let exchange = self.receivers().receive(request, CallPosition { attempt: self.delivery, call }, fault);
        self.record_exchange(call, &exchange);
        exchange.response
    }

    fn after_call(&self, call: &GuestCall) -> ControlFlow<()> {
        let flow = self.reach(CrashPoint::After(self.call_number(call)));
        if let (ControlFlow::Break(()), GuestCall::Request(request)) = (flow, call) {
            self.receivers().orphan(request);
        }
        flow
    }
}
