"""What leaves this machine by itself: results sent on, and news of jobs."""
