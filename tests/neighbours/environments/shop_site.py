"""A Django site around the views of docs/web.md, for both of Django's ways to be served."""

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.urls import path

settings.configure(
    ROOT_URLCONF=__name__,
    MIDDLEWARE=["views.RerankErrors"],
    ALLOWED_HOSTS=["*"],
    SECRET_KEY="none",  # of a test
)
wsgi, asgi = get_wsgi_application(), get_asgi_application()

import views  # noqa: E402 - Django must be set up

urlpatterns = [path("search", views.search), path("search-async", views.search_async)]
