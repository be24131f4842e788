"""The action of each verb: it measures, then writes a record and a report."""
