-- A repair may be of one account of its ledger.
alter table projections.jobs add column account text collate "C"; -- null: all of the ledger
