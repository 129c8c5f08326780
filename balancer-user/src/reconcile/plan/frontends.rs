//! Which addresses lead to which service: its frontends, and the own addresses of its backends
//! where it intercepts those.
//!
//! A backend of several services that intercept it leads to the one whose name is the first. What
//! is a frontend of a service is led there, whoever has it as a backend.

use std::{collections::BTreeSet, net::SocketAddr};

use balancer_common::address::LeadsTo;
use smallvec::SmallVec;

use super::Planner;
use crate::{
    model::{Service, ServiceName},
    reconcile::op::Op,
};

impl<H: Fn(u32) -> u64> Planner<'_, H> {
    /// Points the service's frontends to it, and its backends' own addresses if it says so.
    pub(super) fn add_frontends(&mut self, name: &ServiceName, service: &Service) {
        let Some(assigned) = self.assignment.services.get_mut(name) else {
            return;
        };
        for frontend in &service.frontends {
            if !assigned.frontends.contains(frontend) {
                assigned.frontends.push(*frontend);
            }
            if self.assignment.frontends.insert(*frontend, assigned.id) != Some(assigned.id) {
                let leads_to = LeadsTo::service(assigned.id);
                let frontend = *frontend;
                self.ops.push(Op::PutFrontend { frontend, leads_to });
                if let Some(intercepted) = self.assignment.intercepted.get_mut(&frontend) {
                    intercepted.leads_to = None;
                }
            }
        }
        let missing = service.intercepted();
        let missing: Vec<_> = missing
            .filter(|address| assigned.intercepted.insert(*address))
            .collect();
        for address in missing {
            let intercepted = self.assignment.intercepted.entry(address).or_default();
            intercepted.by.insert(name.clone());
            self.lead(address);
        }
    }

    /// Stops what led to the service and should not (any more), or leads it elsewhere.
    pub(super) fn remove_frontends(&mut self, name: &ServiceName, wanted: Option<&Service>) {
        let Some(assigned) = self.assignment.services.get_mut(name) else {
            return;
        };
        let id = assigned.id;
        let is_wanted =
            |frontend: &SocketAddr| wanted.is_some_and(|it| it.frontends.contains(frontend));
        let (kept, unwanted) = assigned.frontends.drain(..).partition(is_wanted);
        assigned.frontends = kept;
        let unwanted: SmallVec<[SocketAddr; 2]> = unwanted;
        let keep: BTreeSet<_> = wanted.iter().flat_map(|it| it.intercepted()).collect();
        let released: Vec<_> = assigned.intercepted.difference(&keep).copied().collect();
        assigned
            .intercepted
            .retain(|address| keep.contains(address));
        for address in &released {
            if let Some(intercepted) = self.assignment.intercepted.get_mut(address) {
                intercepted.by.remove(name);
            }
            self.lead(*address);
        }
        for frontend in unwanted {
            if self.assignment.frontends.get(&frontend) != Some(&id) {
                continue;
            }
            self.assignment.frontends.remove(&frontend);
            if self.assignment.intercepted.contains_key(&frontend) {
                self.lead(frontend);
            } else {
                self.ops.push(Op::RemoveFrontend { frontend });
            }
        }
    }

    /// Leads the own address of a backend to whom it should, or nowhere.
    fn lead(&mut self, address: SocketAddr) {
        let Some(intercepted) = self.assignment.intercepted.get_mut(&address) else {
            return;
        };
        let first = intercepted.by.first();
        let service = first.and_then(|name| self.assignment.services.get(name));
        let wanted = service.map(|service| LeadsTo::service_of_backend(service.id));
        let is_frontend = self.assignment.frontends.contains_key(&address);
        match wanted {
            Some(leads_to) if !is_frontend && intercepted.leads_to != wanted => {
                intercepted.leads_to = wanted;
                self.ops.push(Op::PutFrontend {
                    frontend: address,
                    leads_to,
                });
            }
            Some(_) => {}
            None => {
                let led = intercepted.leads_to.is_some();
                self.assignment.intercepted.remove(&address);
                if led && !is_frontend {
                    self.ops.push(Op::RemoveFrontend { frontend: address });
                }
            }
        }
    }
}
