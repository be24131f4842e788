"""What each verb does: it measures, then writes a record and a page of it."""
